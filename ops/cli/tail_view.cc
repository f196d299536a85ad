#include "ops/cli/tail_view.h"

#include <boost/json.hpp>
#include <utility>

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kTopicWidth = 42;
constexpr std::size_t kAgeWidth = 12;
constexpr std::size_t kQualityWidth = 7;

std::string text(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

const json::object& data_of(const json::object& message) {
    static const json::object kNone;
    const json::value* data = message.if_contains("data");
    return data && data->is_object() ? data->get_object() : kNone;
}

std::optional<std::uint64_t> natural(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    if (!value || !value->is_int64() || value->get_int64() < 0) {
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(value->get_int64());
}

std::string padded(std::string text, std::size_t width) {
    if (text.size() < width) {
        text.append(width - text.size(), ' ');
    }
    return text;
}

bool is_true(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_bool() && value->get_bool();
}

std::string topic_and_key(const std::string& topic, const std::string& key) {
    return clean(key.empty() ? topic : topic + "/" + key, 80);
}

/// Messages of an edge about the connection itself.
bool about_connection(std::string_view type) {
    return type == "heartbeat" || type == "subscribed" || type == "pong" || type == "hello" ||
           type == "tick" || type == "goodbye" || type == "error" || type == "skipped" ||
           type == "unsubscribed" || type == "authenticated";
}

}  // namespace

TailLine TailView::on_message(std::string_view message, Wall now) {
    boost::system::error_code failed;
    const json::value parsed = json::parse(message, failed);
    if (failed || !parsed.is_object()) {
        const std::string shown = "not a message: " + clean(message, 80);
        return {json_ ? std::nullopt : std::optional<std::string>(shown), false};
    }
    const json::object& object = parsed.get_object();
    const std::string type = text(object, "type");
    if (type == "hello") {
        greeted_ = true;
    } else if (type == "goodbye") {
        if (const auto ms = natural(data_of(object), "reconnect_in_ms")) {
            hint_ = Millis(static_cast<std::int64_t>(*ms));
        }
    }
    if (json_) {
        return {std::string(message), !about_connection(type)};
    }
    return readable(type, object, now);
}

std::optional<Millis> TailView::take_reconnect_hint() {
    return std::exchange(hint_, std::nullopt);
}

TailLine TailView::readable(std::string_view type, const json::object& message, Wall now) {
    if (type == "hello") {
        return {hello_line(message, now), false};
    }
    if (type == "transition") {
        return {quality_line(message, now), true};
    }
    if (type == "tick") {
        if (!ticks_) {
            return {};
        }
        return {quality_line(message, now), false};
    }
    if (type == "error" || type == "goodbye" || type == "skipped") {
        const json::object& data = data_of(message);
        std::string what = text(data, "message");
        if (what.empty()) {
            what = summary(type, data);
        }
        return {paint_.faint(local_clock(now)) + "  " + std::string(type) + ": " + clean(what),
                false};
    }
    if (about_connection(type)) {
        return {};
    }
    if (is_repeat(type, message)) {
        return {};
    }
    return {value_line(type, message, now), true};
}

std::string TailView::hello_line(const json::object& message, Wall now) const {
    const json::object& data = data_of(message);
    std::string out = "connected";
    if (const auto pos = natural(data, "pos")) {
        out += ", log position " + std::to_string(*pos);
    }
    if (text(data, "uplink") == "down") {
        out += "; this edge has no broker, so everything is stale";
    }
    return paint_.faint(local_clock(now) + "  " + out);
}

std::string TailView::line(Wall now, const std::string& what, const AgeView& age,
                           const std::string& rest) const {
    return paint_.faint(local_clock(now)) + "  " + padded(what, kTopicWidth) + "  " +
           paint_.faint(padded(age.age ? age_text(*age.age) : "-", kAgeWidth)) + "  " + rest;
}

std::string TailView::value_line(std::string_view type, const json::object& message,
                                 Wall now) const {
    const AgeView age = age_of(message);
    std::string rest =
        paint_.quality(age.quality,
                       padded(age.quality.empty() ? "event" : age.quality, kQualityWidth)) +
        "  " + (is_true(message, "final") ? "ended: " : "") + summary(type, data_of(message));
    if (age.quality != "live" && !age.reason.empty()) {
        rest += "  [" + quality_sentence(age, now) + "]";
    }
    const json::value* durable = message.if_contains("durable");
    if (durable && durable->is_bool() && !durable->get_bool()) {
        rest += "  [not saved yet]";
    }
    return line(now, topic_and_key(std::string(type), text(message, "key")), age, rest);
}

std::string TailView::quality_line(const json::object& message, Wall now) const {
    const json::object& data = data_of(message);
    const AgeView age = age_of(message);
    std::string key;
    if (const json::value* keys = data.if_contains("keys"); keys && keys->is_array()) {
        const json::array& named = keys->get_array();
        if (named.size() == 1 && named[0].is_string()) {
            key = named[0].get_string();
        } else if (named.size() > 1) {
            key = std::to_string(named.size()) + " keys";
        }
    }
    std::string rest = paint_.quality(age.quality, quality_sentence(age, now));
    const std::string poll = text(data, "poll");
    if (key.empty() && !poll.empty() && poll != text(data, "topic")) {
        rest += "  (" + clean(poll, 60) + ")";
    }
    return line(now, topic_and_key(text(data, "topic"), key), age, rest);
}

bool TailView::is_repeat(std::string_view type, const json::object& message) {
    const auto pos = natural(message, "pos");
    if (!pos || *pos == 0) {
        return false;
    }
    const AgeView age = age_of(message);
    const std::string name =
        std::string(type) + '\0' + text(message, "origin") + '\0' + text(message, "key");
    const Seen now{text(message, "epoch"), *pos, age.quality, age.reason};
    const auto before = seen_.find(name);
    if (before == seen_.end()) {
        if (seen_.size() < kSeenMax) {
            seen_.emplace(name, now);
        }
        return false;
    }
    // Another log epoch begins anew; the same position is news only where its quality is.
    const Seen old = std::exchange(before->second, now);
    if (old.epoch != now.epoch || now.pos > old.pos) {
        return false;
    }
    if (now.pos < old.pos) {
        before->second = old;
        return true;
    }
    return old.quality == now.quality && old.reason == now.reason;
}

}  // namespace sigmacast::cli
