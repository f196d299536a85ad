#include "ops/cli/tail_view.h"

#include <boost/json.hpp>
#include <utility>

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kPollsMax = 1'000;  // Beyond it a transition may be shown twice.

// The columns fit the topics and keys of this product; what is longer pushes the rest of its line.
constexpr std::size_t kQualityWidth = 5;
constexpr std::size_t kAgeWidth = 10;
constexpr std::size_t kTopicWidth = 28;

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

std::string right(const std::string& text, std::size_t width) {
    return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

/// "RPC_DISCONNECT: the engine cannot be reached; last answer 01:02:03; next try in 4:48"
std::string why(const AgeView& age, Wall now) {
    std::string out = clean(age.reason);
    if (const std::string_view words = reason_words(age.reason); !words.empty()) {
        out += ": " + std::string(words);
    }
    if (age.as_of) {
        const bool today = std::chrono::abs(now - *age.as_of) < std::chrono::hours(20);
        out +=
            std::string(out.empty() ? "" : "; ") + "last answer " + local_clock(*age.as_of, !today);
    }
    if (age.uncertain) {
        out += " (about: this machine was restarted since)";
    }
    if (age.retry_at) {
        out += *age.retry_at > now ? "; next try in " + countdown_text(*age.retry_at - now)
                                   : std::string("; next try due");
    }
    return out;
}

bool is_true(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_bool() && value->get_bool();
}

std::string quality_and_reason(const AgeView& age) {
    return age.quality + '\0' + age.reason;
}

/// ": positions 3 to 9", or nothing.
std::string range_text(const json::object& range) {
    const auto from = natural(range, "from");
    const auto to = natural(range, "to");
    if (!from || !to || *to == 0) {
        return {};
    }
    return *from == *to ? ": position " + std::to_string(*from)
                        : ": positions " + std::to_string(*from) + " to " + std::to_string(*to);
}

/// What a client has to know of an answer to subscribe: what it will not get, or gets anew.
std::optional<std::string> subscribed_text(const json::object& data) {
    const json::value* topics = data.if_contains("topics");
    if (!topics || !topics->is_object()) {
        return std::nullopt;
    }
    std::string out;
    for (const auto& member : topics->get_object()) {
        if (!member.value().is_object()) {
            continue;
        }
        const std::string result = text(member.value().get_object(), "result");
        const std::string cause = text(member.value().get_object(), "cause");
        std::string said;
        if (result == "denied") {
            said = "the token does not allow it";
        } else if (result == "unknown") {
            said = "nobody has published this topic yet; it is shown once somebody does";
        } else if (cause == "new_epoch") {
            said = "starts anew, the broker has another log";
        } else if (cause == "repaired") {
            said = "starts anew, the edge had lost something";
        } else if (cause == "future") {
            said = "starts anew, the log does not reach as far as what was seen";
        } else if (result == "pending") {
            said = "what was missed follows once the broker answers";
        }
        if (const json::value* lost = member.value().get_object().if_contains("lost");
            lost && lost->is_object()) {
            said = "events are lost, no longer in the log" + range_text(lost->get_object());
        }
        if (!said.empty()) {
            out += (out.empty() ? "" : "; ") + clean(std::string(member.key()), 80) + ": " + said;
        }
    }
    return out.empty() ? std::nullopt : std::optional<std::string>(out);
}

std::string skipped_text(const json::object& data) {
    const std::string topic = clean(text(data, "topic"), 80);
    const std::string why = text(data, "why");
    std::string out = "left out of " + topic;
    if (const std::string key = text(data, "key"); !key.empty()) {
        out += "/" + clean(key, 80);
    }
    out += range_text(data);
    out += why == "slow"        ? ", since this client is slow; the newest value follows"
           : why == "lost"      ? ", no longer in the log"
           : why == "too_large" ? ", too large for clients; `sigmacast state` has it"
                                : ", " + clean(why, 40);
    return out;
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
        return {options_.json ? std::nullopt : std::optional<std::string>(shown), false};
    }
    const json::object& object = parsed.get_object();
    const std::string type = text(object, "type");
    cursor_.on_message(object);
    if (type == "hello") {
        greeted_ = true;
    } else if (type == "goodbye") {
        if (const auto ms = natural(data_of(object), "reconnect_in_ms")) {
            hint_ = Millis(static_cast<std::int64_t>(*ms));
        }
    }
    if (type == "pong") {
        return {};  // Asked for by ourselves.
    }
    if (options_.json) {
        return {std::string(message), !about_connection(type)};
    }
    return readable(type, object, now);
}

std::optional<Millis> TailView::take_reconnect_hint() {
    return std::exchange(hint_, std::nullopt);
}

TailLine TailView::readable(std::string_view type, const json::object& message, Wall now) {
    const json::object& data = data_of(message);
    if (type == "hello") {
        return {about(now, hello_text(message)), false};
    }
    if (type == "transition" || type == "tick") {
        return quality_line(message, type == "tick", now);
    }
    if (type == "subscribed") {
        const auto said = subscribed_text(data);
        return {said ? std::optional<std::string>(about(now, *said)) : std::nullopt, false};
    }
    if (type == "skipped") {
        return {about(now, skipped_text(data)), false};
    }
    if (type == "error" || type == "goodbye") {
        std::string what = text(data, "message");
        if (what.empty()) {
            what = summary(type, data);
        }
        return {about(now, std::string(type) + ": " + clean(what)), false};
    }
    if (about_connection(type) || is_repeat(type, message)) {
        return {};
    }
    return value_line(type, message, now);
}

std::string TailView::hello_text(const json::object& message) const {
    const json::object& data = data_of(message);
    std::string out = "connected";
    if (const auto pos = natural(data, "pos")) {
        out += ", log position " + std::to_string(*pos);
    }
    if (text(data, "uplink") == "down") {
        out += "; this edge has no broker, so everything is stale";
    }
    return out;
}

std::string TailView::about(Wall now, const std::string& text) const {
    return paint_.faint(local_clock(now) + "  " + text);
}

std::string TailView::line(Wall now, const Columns& columns) const {
    return paint_.faint(local_clock(now)) + "  " +
           paint_.quality(columns.quality, padded(columns.quality, kQualityWidth)) + "  " +
           paint_.faint(right(columns.age ? age_text(*columns.age) : "-", kAgeWidth)) + "  " +
           padded(columns.what, kTopicWidth) + "  " + columns.rest;
}

/// The origin is named where there are several.
std::string TailView::name_of(const std::string& topic, const std::string& key,
                              const std::string& origin) {
    if (!origin_) {
        origin_ = origin;
    }
    return clean(
        (key.empty() ? topic : topic + "/" + key) + (origin == *origin_ ? "" : "@" + origin), 80);
}

TailLine TailView::value_line(std::string_view type, const json::object& message, Wall now) {
    const AgeView age = age_of(message);
    const json::object& data = data_of(message);
    const std::string origin = text(message, "origin");
    const bool state = !age.quality.empty();
    if (Said* said = state ? said_of(std::string(type), origin, text(message, "poll")) : nullptr) {
        if (is_true(message, "final")) {
            said->keys.erase(text(message, "key"));
        } else if (said->keys.size() < kSeenMax) {
            said->keys[text(message, "key")] = quality_and_reason(age);
        }
    }
    if (options_.everything && is_true(message, "replay") && type == "breaker.status" &&
        text(data, "state") == "closed" && age.quality == "live") {
        return {};
    }
    std::string rest = (is_true(message, "final") ? "ended: " : "") + summary(type, data);
    if (state && age.quality != "live") {
        rest += "  [" + why(age, now) + "]";
    }
    const json::value* durable = message.if_contains("durable");
    if (durable && durable->is_bool() && !durable->get_bool()) {
        rest += "  [not saved yet]";
    }
    return {line(now, {state ? age.quality : "event", age.age,
                       name_of(std::string(type), text(message, "key"), origin), rest}),
            true};
}

TailLine TailView::quality_line(const json::object& message, bool tick, Wall now) {
    if (tick && !options_.ticks) {
        return {};
    }
    const json::object& data = data_of(message);
    const AgeView age = age_of(message);
    const std::string topic = text(data, "topic");
    const std::string poll = text(data, "poll");
    const std::string origin = text(message, "origin");
    std::vector<std::string> keys;
    if (const json::value* named = data.if_contains("keys"); named && named->is_array()) {
        for (const json::value& key : named->get_array()) {
            if (key.is_string()) {
                keys.emplace_back(key.get_string());
            }
        }
    }
    Said* said = tick ? nullptr : said_of(topic, origin, poll);
    if (said && is_said(*said, keys, quality_and_reason(age))) {
        return {};
    }
    const std::string key = keys.size() > 1 ? std::to_string(keys.size()) + " keys"
                            : keys.empty()  ? ""
                                            : keys.front();
    // Where several polls feed a topic, which one it is.
    const std::string of = poll.empty() || poll == topic ? "" : " (" + clean(poll, 60) + ")";
    Columns columns{age.quality, age.age, name_of(topic, key, origin), {}};
    if (not_offered(age)) {
        columns.quality = "-";
        columns.rest = "not offered by this engine" + of;
    } else if (age.quality == "live") {
        columns.rest = (tick ? "unchanged" : "live again") + of;
    } else {
        columns.rest = why(age, now) + of;
    }
    return {line(now, columns), !tick};
}

TailView::Said* TailView::said_of(const std::string& topic, const std::string& origin,
                                  const std::string& poll) {
    const std::string name = topic + '\0' + origin + '\0' + poll;
    const auto found = said_.find(name);
    if (found != said_.end()) {
        return &found->second;
    }
    return said_.size() < kPollsMax ? &said_[name] : nullptr;
}

/// A value brings its quality along, and the transition that the broker makes of it comes as well:
/// said once is enough. `keys` empty: all of the poll's. Remembers `now` as said.
bool TailView::is_said(Said& said, const std::vector<std::string>& keys, const std::string& now) {
    bool known = true;
    if (keys.empty()) {
        known = said.keys.empty() || said.partial ? said.all == now : true;
        for (auto& [key, before] : said.keys) {
            known = std::exchange(before, now) == now && known;
        }
        said.all = now;
        return known;
    }
    for (const std::string& key : keys) {
        const auto before = said.keys.find(key);
        known = (before == said.keys.end() ? said.all : before->second) == now && known;
        if (before != said.keys.end()) {
            before->second = now;
        } else if (said.keys.size() < kSeenMax) {
            said.keys.emplace(key, now);
            said.partial = true;
        }
    }
    return known;
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
