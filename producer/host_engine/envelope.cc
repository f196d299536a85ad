#include "producer/host_engine/envelope.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <cctype>
#include <cmath>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>

#include "common/codec.h"
#include "producer/host_engine/json_problem.h"

namespace sigmacast::host_engine {
namespace json = boost::json;
namespace {

constexpr int kMethodNotFound = -32601;
constexpr int kInvalidParams = -32602;
constexpr int kInternalError = -32603;

/// Through msgpack, because Boost's own writer spells 24.6 as 2.46E1.
http::Response json_response(int status, const json::value& body) {
    http::Response response{.status = status};
    if (!append_json(response.body, to_msgpack(body))) {
        response.status = 500;
        response.body = R"({"detail":"The answer is too large"})";
    }
    return response;
}

http::Response refuse(int status, std::string_view detail) {
    return json_response(status, json::object{{"detail", detail}});
}

json::object fault(std::string_view type, json::array place, std::string_view text,
                   json::value input) {
    return {{"type", type}, {"loc", std::move(place)}, {"msg", text}, {"input", std::move(input)}};
}

http::Response unprocessable(json::array faults) {
    return json_response(422, json::object{{"detail", std::move(faults)}});
}

http::Response not_json(const std::string& body) {
    const auto problem = json_problem(body);
    if (!problem) {
        return refuse(400, "There was an error parsing the body");
    }
    json::object detail =
        fault("json_invalid", {"body", problem->at}, "JSON decode error", json::object{});
    detail["ctx"] = json::object{{"error", problem->what}};
    return unprocessable({std::move(detail)});
}

http::Response not_an_object(json::value input) {
    return unprocessable({fault(
        "model_attributes_type", {"body"},
        "Input should be a valid dictionary or object to extract fields from", std::move(input))});
}

/// A body without a type counts as JSON; so does application/json with parameters, and
/// application/x+json.
bool is_json_type(std::string_view type) {
    std::string essence(type.substr(0, type.find(';')));
    std::erase_if(essence, [](char c) { return c == ' ' || c == '\t'; });
    std::transform(essence.begin(), essence.end(), essence.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    constexpr std::string_view kApplication = "application/";
    if (essence.empty()) {
        return true;
    }
    const bool suffix = essence.size() > 5 && essence.substr(essence.size() - 5) == "+json";
    return essence.rfind(kApplication, 0) == 0 && (essence == "application/json" || suffix);
}

void check_text(const json::object& call, std::string_view name, json::array& faults) {
    const json::value* value = call.if_contains(name);
    if (value != nullptr && !value->is_string()) {
        faults.push_back(
            fault("string_type", {"body", name}, "Input should be a valid string", *value));
    }
}

/// Whole numbers may be written as fractions; so the original's model reads them.
void check_id(const json::object& call, json::array& faults) {
    const json::value* id = call.if_contains("id");
    if (id == nullptr || id->is_null() || id->is_string() || id->is_int64() || id->is_uint64() ||
        id->is_bool() || (id->is_double() && std::trunc(id->get_double()) == id->get_double())) {
        return;
    }
    faults.push_back(
        fault("string_type", {"body", "id", "str"}, "Input should be a valid string", *id));
    faults.push_back(
        id->is_double()
            ? fault("int_from_float", {"body", "id", "int"},
                    "Input should be a valid integer, got a number with a fractional part", *id)
            : fault("int_type", {"body", "id", "int"}, "Input should be a valid integer", *id));
}

json::array faults_of(const json::object& call) {
    json::array faults;
    check_text(call, "jsonrpc", faults);
    if (call.contains("method")) {
        check_text(call, "method", faults);
    } else {
        faults.push_back(fault("missing", {"body", "method"}, "Field required", call));
    }
    const json::value* params = call.if_contains("params");
    if (params != nullptr && !params->is_null() && !params->is_object()) {
        faults.push_back(
            fault("dict_type", {"body", "params"}, "Input should be a valid dictionary", *params));
    }
    check_id(call, faults);
    return faults;
}

json::value id_of(const json::object& call) {
    const json::value* id = call.if_contains("id");
    if (id == nullptr) {
        return nullptr;
    }
    if (id->is_bool()) {
        return id->get_bool() ? 1 : 0;
    }
    constexpr double kExactMax = 9007199254740992.0;  // 2^53
    if (id->is_double() && std::fabs(id->get_double()) <= kExactMax) {
        return static_cast<std::int64_t>(id->get_double());
    }
    return *id;
}

http::Response reply(json::value result, json::value error, json::value id) {
    return json_response(200, json::object{{"jsonrpc", "2.0"},
                                           {"result", std::move(result)},
                                           {"error", std::move(error)},
                                           {"id", std::move(id)}});
}

http::Response perform(const json::object& call, const Methods& methods) {
    const std::string_view name = call.at("method").get_string();
    const auto method = methods.find(name);
    if (method == methods.end()) {
        return reply(nullptr,
                     json::object{{"code", kMethodNotFound},
                                  {"message", "Method not found: " + std::string(name)}},
                     id_of(call));
    }
    const json::value* params = call.if_contains("params");
    try {
        return reply(method->second(params != nullptr && params->is_object() ? params->get_object()
                                                                             : json::object{}),
                     nullptr, id_of(call));
    } catch (const InvalidParams& problem) {
        return reply(nullptr,
                     json::object{{"code", kInvalidParams},
                                  {"message", std::string("Invalid params: ") + problem.what()}},
                     id_of(call));
    } catch (const std::exception& problem) {
        return reply(
            nullptr,
            json::object{
                {"code", kInternalError}, {"message", "Internal error"}, {"data", problem.what()}},
            id_of(call));
    }
}

http::Response answer_call(const http::Request& request, const Methods& methods) {
    if (request.body.empty()) {
        return unprocessable({fault("missing", {"body"}, "Field required", nullptr)});
    }
    if (!is_json_type(request.header("content-type"))) {
        return not_an_object(json::value(request.body));
    }
    const Result<json::value> body = parse_json(request.body);
    if (!body) {
        return not_json(request.body);
    }
    if (body->is_null()) {
        return unprocessable({fault("missing", {"body"}, "Field required", nullptr)});
    }
    if (!body->is_object()) {
        return not_an_object(*body);
    }
    json::array faults = faults_of(body->get_object());
    return faults.empty() ? perform(body->get_object(), methods) : unprocessable(std::move(faults));
}

}  // namespace

http::Response answer(const http::Request& request, const Methods& methods) {
    if (request.path != kRpcPath) {
        return refuse(404, "Not Found");
    }
    if (request.method != "POST") {
        http::Response response = refuse(405, "Method Not Allowed");
        response.headers.emplace_back("allow", "POST");
        return response;
    }
    if (!request.header("origin").empty()) {
        return refuse(403, "Pages may not call the engine (the request has an Origin)");
    }
    return answer_call(request, methods);
}

}  // namespace sigmacast::host_engine
