#include <algorithm>
#include <boost/json.hpp>
#include <tuple>

#include "common/codec.h"
#include "ops/cli/remote.h"

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kAnswerBytesMax = 64u << 20;
constexpr int kDepthMax = 6;  // Values stand in lists by topic; deeper is data.

std::string text(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

void collect(const json::value& value, int depth, std::vector<StateRow>& rows) {
    if (depth > kDepthMax) {
        return;
    }
    if (value.is_array()) {
        for (const json::value& item : value.get_array()) {
            collect(item, depth + 1, rows);
        }
        return;
    }
    if (!value.is_object()) {
        return;
    }
    const json::object& object = value.get_object();
    const std::string topic = text(object, "type");
    if (!topic.empty() && object.contains("quality")) {
        const json::value* data = object.if_contains("data");
        rows.push_back(
            {topic, text(object, "key"), text(object, "origin"), age_of(object),
             data && data->is_object() ? summary(topic, data->get_object()) : std::string()});
        return;
    }
    for (const auto& member : object) {
        collect(member.value(), depth + 1, rows);
    }
}

}  // namespace

Result<std::vector<StateRow>> state_rows(std::string_view body) {
    CodecLimits limits;
    limits.bytes_max = kAnswerBytesMax;
    limits.elements_max = 10'000'000;
    const auto parsed = parse_json(body, limits);
    if (!parsed) {
        return parsed.error().within("the answer is not the state of an edge");
    }
    std::vector<StateRow> rows;
    collect(*parsed, 0, rows);
    std::sort(rows.begin(), rows.end(), [](const StateRow& a, const StateRow& b) {
        return std::tie(a.topic, a.origin, a.key) < std::tie(b.topic, b.origin, b.key);
    });
    return rows;
}

}  // namespace sigmacast::cli
