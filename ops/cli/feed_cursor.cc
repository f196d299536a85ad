#include "ops/cli/feed_cursor.h"

#include <algorithm>
#include <boost/json.hpp>

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

std::string text(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::optional<std::uint64_t> position(const json::object& object) {
    const json::value* value = object.if_contains("pos");
    if (!value || !value->is_int64() || value->get_int64() < 0) {
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(value->get_int64());
}

/// Whether an answer to subscribe says that the cursor is beyond the log.
bool says_future(const json::object& data) {
    const json::value* topics = data.if_contains("topics");
    return topics && topics->is_object() &&
           std::any_of(topics->get_object().begin(), topics->get_object().end(),
                       [](const auto& topic) {
                           return topic.value().is_object() &&
                                  text(topic.value().get_object(), "cause") == "future";
                       });
}

}  // namespace

void FeedCursor::on_message(const json::object& message) {
    static const json::object kNone;
    const json::value* inner = message.if_contains("data");
    const json::object& data = inner && inner->is_object() ? inner->get_object() : kNone;
    const std::string type = text(message, "type");
    if (type == "hello") {
        // Of a later connection it says how far the edge is, and not what is missing here.
        if (const auto pos = position(data); epoch_.empty() && pos) {
            reach(text(data, "epoch"), *pos);
        }
    } else if (type == "subscribed" && says_future(data)) {
        epoch_.clear();
    } else if (type == "heartbeat" || type == "pong") {
        if (const auto pos = position(message)) {
            reach(text(message, "epoch"), *pos);
        }
    } else if (const auto pos = position(message);
               pos && *pos > pos_ && text(message, "epoch") == epoch_ && !epoch_.empty()) {
        // The state of a snapshot comes by keys: what is marked has to come in order.
        const json::value* replay = message.if_contains("replay");
        if (replay && message.contains("quality")) {
            return;
        }
        const std::pair name(type == "transition" ? text(data, "topic") : type,
                             text(message, "origin"));
        if (seen_.size() < kSeenMax || seen_.contains(name)) {
            std::uint64_t& seen = seen_[name];
            seen = std::max(seen, *pos);
        }
    }
}

void FeedCursor::reach(std::string epoch, std::uint64_t pos) {
    if (epoch != epoch_) {
        epoch_ = std::move(epoch);
        pos_ = pos;
        seen_.clear();
    }
    pos_ = std::max(pos_, pos);
    std::erase_if(seen_, [this](const auto& each) { return each.second <= pos_; });
}

std::optional<json::value> FeedCursor::resume() const {
    if (epoch_.empty()) {
        return std::nullopt;
    }
    json::object topics;
    for (const auto& [name, pos] : seen_) {
        const auto& [topic, origin] = name;
        topics.emplace(topic, json::object());
        topics[topic].as_object()[origin] = pos;
    }
    return json::value{{"epoch", epoch_}, {"pos", pos_}, {"topics", std::move(topics)}};
}

}  // namespace sigmacast::cli
