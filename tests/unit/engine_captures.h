// Recorded exchanges with the original engine (tests/data/engine-captures), as the HTTP client
// would return them.
#pragma once

#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include "common/http.h"

namespace sigmacast {

inline boost::json::object capture_file(const std::string& name) {
    const std::string path =
        std::string(SIGMACAST_TEST_DATA) + "/engine-captures/" + name + ".json";
    std::ifstream file(path);
    if (!file) {
        throw std::runtime_error("cannot read " + path);
    }
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    return boost::json::parse(text).as_object();
}

inline Result<http::Response> capture(const std::string& name) {
    const boost::json::object exchange = capture_file(name);
    http::Response response;
    response.status = static_cast<int>(exchange.at("http_status").as_int64());
    response.body = std::string(exchange.at("body").as_string());
    return response;
}

/// The `result` member of the recorded reply.
inline boost::json::value captured_result(const std::string& name) {
    return boost::json::parse(capture(name)->body).at("result");
}

}  // namespace sigmacast
