#include "producer/rpc.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cctype>
#include <utility>

#include "common/codec.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

constexpr std::int64_t kMethodNotFound = -32601;  // JSON-RPC 2.0, section 5.1.
constexpr std::int64_t kInternalError = -32603;
constexpr std::size_t kTextBytesMax = 300;  // Of what a stranger wrote, in our messages.

std::string shortened(std::string_view text) {
    std::string kept(text.substr(0, kTextBytesMax));
    std::replace_if(
        kept.begin(), kept.end(), [](unsigned char c) { return std::iscntrl(c) != 0; }, ' ');
    return kept;
}

Outcome failure(Verdict verdict, std::string text) {
    return {.verdict = verdict, .value = nullptr, .timeout = false, .text = std::move(text)};
}

Outcome own(std::string text) {
    return failure(Verdict::kOwn, std::move(text));
}

/// The engine was not reached, or broke off; all else is an answer, however unusable.
Outcome judge_error_of(const Error& error) {
    const bool timeout = error.code == Errc::kTimeout;
    const bool transport = timeout || error.code == Errc::kUnavailable;
    Outcome outcome = failure(transport ? Verdict::kTransport : Verdict::kOwn, error.message);
    outcome.timeout = timeout;
    return outcome;
}

std::string_view text_member(const json::object& object, std::string_view name) {
    const json::value* member = object.if_contains(name);
    return member != nullptr && member->is_string() ? std::string_view(member->get_string())
                                                    : std::string_view();
}

bool says_not_found(std::string_view text) {
    std::string lower(text);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return lower.find("not found") != std::string::npos;
}

Outcome judge_error(const json::value& error) {
    if (!error.is_object()) {
        return own("the engine's error member is not an object");
    }
    const json::object& object = error.get_object();
    const json::value* code = object.if_contains("code");
    if (code == nullptr || !code->is_int64()) {
        return own("the engine's error has no code");
    }
    std::string text = shortened(text_member(object, "message"));
    const std::string_view data = text_member(object, "data");
    if (!data.empty()) {
        text += ": " + shortened(data);
    }
    text += " (" + std::to_string(code->get_int64()) + ")";
    if (code->get_int64() == kMethodNotFound) {
        return failure(Verdict::kUnsupported, std::move(text));
    }
    const bool not_found = code->get_int64() == kInternalError && says_not_found(text);
    return failure(not_found ? Verdict::kNotFound : Verdict::kOwn, std::move(text));
}

bool id_matches(const json::value& id, std::uint64_t expected) {
    return (id.is_int64() && id.get_int64() >= 0 &&
            static_cast<std::uint64_t>(id.get_int64()) == expected) ||
           (id.is_uint64() && id.get_uint64() == expected);
}

}  // namespace

std::string rpc_request(std::uint64_t id, std::string_view method, std::string_view params) {
    std::string text = R"({"jsonrpc":"2.0","method":)";
    append_json_string(text, method);
    if (!params.empty()) {
        text += R"(,"params":)";
        text += params;
    }
    text += R"(,"id":)" + std::to_string(id) + "}";
    return text;
}

Outcome judge(const Result<http::Response>& reply, std::uint64_t id) {
    if (!reply) {
        return judge_error_of(reply.error());
    }
    if (reply->status != 200) {
        return own("the engine answered with HTTP " + std::to_string(reply->status));
    }
    Result<json::value> parsed = parse_json(reply->body, {.bytes_max = reply->body.size() + 1});
    if (!parsed) {
        return own("the engine's reply is not JSON: " + parsed.error().message);
    }
    if (!parsed->is_object()) {
        return own("the engine's reply is not an object");
    }
    json::object& object = parsed->get_object();
    const json::value* reply_id = object.if_contains("id");
    if (reply_id == nullptr || !id_matches(*reply_id, id)) {
        return own("the engine's reply has another id than the request (" + std::to_string(id) +
                   ")");
    }
    const json::value* error = object.if_contains("error");
    json::value* result = object.if_contains("result");
    const bool has_error = error != nullptr && !error->is_null();
    const bool has_result = result != nullptr && !result->is_null();
    if (has_error && has_result) {
        return own("the engine's reply has both a result and an error");
    }
    if (has_error) {
        return judge_error(*error);
    }
    if (!has_result) {
        return own("the engine's reply has neither a result nor an error");
    }
    return {.verdict = Verdict::kValue, .value = std::move(*result), .timeout = false, .text = {}};
}

}  // namespace sigmacast::producer
