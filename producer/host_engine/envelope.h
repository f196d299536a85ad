// JSON-RPC 2.0 over HTTP as the original engine speaks it: which calls are refused, how, and the
// order of members in an answer. Pure: a request goes in, a response comes out, methods are called
// in between. Batches are refused; a call without id is answered with `"id":null`.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <map>
#include <string>

#include "common/http.h"

namespace sigmacast::host_engine {

/// Throws std::exception where it fails: the answer is -32603 with its text.
using Method = std::function<boost::json::value(const boost::json::object& params)>;
using Methods = std::map<std::string, Method, std::less<>>;

inline constexpr const char* kRpcPath = "/api/v1/rpc";

/// Answers any request: a call, or what is none.
http::Response answer(const http::Request& request, const Methods& methods);

}  // namespace sigmacast::host_engine
