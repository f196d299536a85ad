// JSON-RPC 2.0 over HTTP as the original engine speaks it: which calls are refused, how, and the
// order of members in an answer. Pure: a request goes in, a response comes out, methods are called
// in between. Batches are refused; a call without id is answered with `"id":null`. Pages are
// refused: some methods change files, and any page may send a call without a content type.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>

#include "common/http.h"

namespace sigmacast::host_engine {

/// A method throws it where it cannot take its params: the answer is -32602 with its text.
class InvalidParams : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

/// Throws any other std::exception where it fails: the answer is -32603 with its text.
using Method = std::function<boost::json::value(const boost::json::object& params)>;
using Methods = std::map<std::string, Method, std::less<>>;

inline constexpr const char* kRpcPath = "/api/v1/rpc";

/// Answers any request: a call, or what is none.
http::Response answer(const http::Request& request, const Methods& methods);

}  // namespace sigmacast::host_engine
