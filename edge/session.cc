#include "edge/session.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "common/codec.h"

namespace sigmacast::edge {
namespace {

namespace json = boost::json;

constexpr CodecLimits kClientLimits{.bytes_max = 1u << 20, .elements_max = 4'096, .depth_max = 16};
constexpr std::size_t kIdBytesMax = 128;

std::string id_of(const json::object& message) {
    const json::value* id = message.if_contains("id");
    if (!id || !(id->is_number() || id->is_string())) {
        return {};
    }
    std::string text = json::serialize(*id);
    return text.size() <= kIdBytesMax ? text : std::string{};
}

/// The first of the shapes that is there: data.types, types, data.events, data.subscriptions,
/// events, subscriptions.
const json::value* types_of(const json::object& message) {
    const json::value* data = message.if_contains("data");
    const json::object* inner = data ? data->if_object() : nullptr;
    for (const char* name : {"types", "events", "subscriptions"}) {
        for (const json::object* place : {inner, &message}) {
            const json::value* list = place ? place->if_contains(name) : nullptr;
            if (list) {
                return list;
            }
        }
    }
    return nullptr;
}

std::string read_types(const json::object& message, std::vector<std::string>& types) {
    const json::value* list = types_of(message);
    if (!list) {
        return "there is no list of types: send {\"type\":\"subscribe\",\"data\":{\"types\":[..]}}";
    }
    if (!list->is_array()) {
        return "types must be a list of names";
    }
    for (const json::value& item : list->get_array()) {
        if (!item.is_string() || item.get_string().empty() ||
            item.get_string().size() > kTopicNameMax) {
            return "each type must be a name of 1 to " + std::to_string(kTopicNameMax) + " bytes";
        }
        types.emplace_back(item.get_string());
    }
    if (types.size() > kNamesMax) {
        return "more than " + std::to_string(kNamesMax) + " types in one message";
    }
    return {};
}

std::optional<std::uint64_t> read_position(const json::value& value) {
    if (!value.is_int64() || value.get_int64() < 0) {
        return std::nullopt;  // What needs 64 bits is none, either.
    }
    return static_cast<std::uint64_t>(value.get_int64());
}

/// {"topic":{"origin":pos}}
bool read_seen(const json::value& value, Seen& seen) {
    const json::object* topics = value.if_object();
    for (auto topic = topics ? topics->begin() : nullptr; topics && topic != topics->end();
         ++topic) {
        const json::object* origins = topic->value().if_object();
        if (!origins || topic->key().size() > kNameBytesMax) {
            return false;
        }
        for (const auto& [origin, at] : *origins) {
            const auto pos = read_position(at);
            if (!pos || origin.size() > kNameBytesMax || seen.size() >= kCursorEntriesMax) {
                return false;
            }
            seen[{std::string(topic->key()), std::string(origin)}] = *pos;
        }
    }
    return topics != nullptr;
}

std::optional<Cursor> read_cursor(const json::value& value) {
    const json::object* members = value.if_object();
    const json::value* epoch = members ? members->if_contains("epoch") : nullptr;
    const json::value* pos = members ? members->if_contains("pos") : nullptr;
    const json::value* topics = members ? members->if_contains("topics") : nullptr;
    const auto at = pos ? read_position(*pos) : std::nullopt;
    if (!epoch || !epoch->is_string() || !at) {
        return std::nullopt;
    }
    Cursor cursor{.epoch = std::string(epoch->get_string()), .pos = *at};
    const bool is_epoch = cursor.epoch.size() == 32 &&
                          cursor.epoch.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_epoch || (topics && !read_seen(*topics, cursor.seen))) {
        return std::nullopt;
    }
    return cursor;
}

void read_resume(const json::object& message, ClientMessage& result) {
    const json::value* data = message.if_contains("data");
    const json::object* inner = data ? data->if_object() : nullptr;
    for (const json::object* place : {inner, &message}) {
        const json::value* found = place ? place->if_contains("resume") : nullptr;
        if (found) {
            result.resume = true;
            result.cursor = read_cursor(*found);
            return;
        }
    }
}

void read_token(const json::object& message, ClientMessage& result) {
    const json::value* data = message.if_contains("data");
    const json::object* inner = data ? data->if_object() : nullptr;
    const json::value* token = inner ? inner->if_contains("token") : nullptr;
    if (!token || !token->is_string()) {
        result.problem = "there is no token: send {\"type\":\"auth\",\"data\":{\"token\":\"..\"}}";
        return;
    }
    result.type = ClientMessage::Type::kAuth;
    result.token = token->get_string();
}

}  // namespace

ClientMessage parse_client_message(std::string_view text) {
    ClientMessage result;
    const auto parsed = parse_json(text, kClientLimits);
    if (!parsed) {
        result.problem = "not JSON: " + parsed.error().message;
        return result;
    }
    const json::object* message = parsed->if_object();
    if (!message) {
        result.problem = "a message must be a JSON object";
        return result;
    }
    result.id = id_of(*message);
    const json::value* type = message->if_contains("type");
    if (!type || !type->is_string()) {
        result.problem = "type must be a string";
        return result;
    }
    const std::string_view name = type->get_string();
    if (name == "ping") {
        result.type = ClientMessage::Type::kPing;
        return result;
    }
    if (name == "auth") {
        read_token(*message, result);
        return result;
    }
    if (name != "subscribe" && name != "unsubscribe") {
        result.problem =
            "unknown type; this server understands ping, subscribe, unsubscribe and auth";
        return result;
    }
    result.problem = read_types(*message, result.types);
    read_resume(*message, result);
    if (result.problem.empty()) {
        result.type = name == "subscribe" ? ClientMessage::Type::kSubscribe
                                          : ClientMessage::Type::kUnsubscribe;
    }
    return result;
}

Session::Session(std::string client_id, Dialect dialect, QueueLimits limits, SendCounters& counters,
                 Now now)
    : client_id_(std::move(client_id)),
      dialect_(dialect),
      limits_(limits),
      counters_(counters),
      last_sent_(now.mono) {}

void Session::send_control(FramePtr frame) {
    if (closing_) {
        return;
    }
    control_bytes_ += frame->size();
    control_.push_back(std::move(frame));
}

bool Session::wants_reading() const {
    return control_bytes_ <= limits_.control_bytes_max && data_bytes_ <= limits_.bytes_max;
}

bool Session::send_data(const Outgoing& item) {
    if (closing_) {
        return true;
    }
    if (item.frame->size() > limits_.bytes_max) {
        if (item.seq != 0) {
            skip(*item.stream, item.seq);
        }
        return true;
    }
    if (!conflating_ &&
        data_bytes_ + item.frame->size() > std::min(kConflateBytes, limits_.bytes_max / 2)) {
        start_conflating();
    }
    if (conflating_ && item.slot != 0) {
        const auto older = slots_.find(item.slot);
        if (older != slots_.end()) {
            Outgoing& place = data_[older->second - base_];
            if (place.seq != 0) {
                skip(*place.stream, place.seq);
            }
            give_up(place);
            // A tick that waits would speak for a value that the client does not get before it.
            const auto tick = slots_.find(item.tick);
            if (item.tick != 0 && tick != slots_.end()) {
                give_up(data_[tick->second - base_]);
                slots_.erase(tick);
            }
        }
    }
    const std::size_t bytes = data_bytes_ + item.frame->size();
    if ((bytes > limits_.bytes_max && bytes > allowance_) || live_items_ >= limits_.items_max) {
        data_.clear();
        data_bytes_ = 0;
        live_items_ = 0;
        slots_.clear();
        skips_.clear();
        return false;
    }
    data_bytes_ = bytes;
    ++live_items_;
    data_.push_back(item);
    if (conflating_ && item.slot != 0) {
        if (item.last) {
            slots_.erase(item.slot);
        } else {
            slots_[item.slot] = base_ + data_.size() - 1;
        }
    }
    if (data_.size() > 64 && data_.size() > live_items_ * 2) {
        compact();
    }
    return true;
}

void Session::give_up(Outgoing& place) {
    data_bytes_ -= place.frame->size();
    --live_items_;
    ++counters_.conflated;
    place.frame.reset();
}

/// From now on the waiting frames can be found by their slot.
void Session::start_conflating() {
    conflating_ = true;
    slots_.clear();
    for (std::size_t i = 0; i < data_.size(); ++i) {
        if (data_[i].frame && data_[i].slot != 0) {
            // Of ticks the newest stays, so that all that speak for a value can be found.
            const auto older = slots_.find(data_[i].slot);
            if (data_[i].stream == nullptr && older != slots_.end()) {
                give_up(data_[older->second - base_]);
            }
            if (data_[i].last) {
                slots_.erase(data_[i].slot);
            } else {
                slots_[data_[i].slot] = base_ + i;
            }
        }
    }
}

/// Removes the places that were given up, so that they are bounded by what waits.
void Session::compact() {
    base_ += data_.size();  // Numbers are never used twice.
    data_.remove_if([](const Outgoing& item) { return !item.frame; });
    if (conflating_) {
        start_conflating();
    }
}

/// Notes a position that the client will not get, joined to its neighbours.
void Session::skip(const Stream& stream, std::uint64_t seq) {
    if (!v1()) {
        return;
    }
    Skips& skips = skips_[&stream];
    std::uint64_t from = seq;
    std::uint64_t to = seq;
    auto after = skips.upper_bound(seq);
    if (after != skips.begin()) {
        const auto before = std::prev(after);
        if (before->second + 1 >= seq) {
            from = before->first;
            to = std::max(to, before->second);
            skips.erase(before);
        }
    }
    if (after != skips.end() && after->first == to + 1) {
        to = after->second;
        skips.erase(after);
    }
    skips[from] = to;
}

std::vector<FramePtr> Session::take(std::size_t frames_max, Now now, std::size_t bytes_max) {
    std::vector<FramePtr> taken;
    taken.reserve(std::min(frames_max, control_.size() + live_items_));
    std::size_t bytes = 0;
    const auto fits = [&](const FramePtr& frame) {
        return taken.size() < frames_max && (taken.empty() || bytes + frame->size() <= bytes_max);
    };
    const auto add = [&](FramePtr frame) {
        bytes += frame->size();
        taken.push_back(std::move(frame));
    };
    while (!control_.empty() && fits(control_.front())) {
        control_bytes_ -= control_.front()->size();
        add(std::move(control_.front()));
        control_.pop_front();
    }
    // A frame that has to wait keeps its note waiting, too: it may be conflated again.
    while (control_.empty() && !data_.empty() &&
           (!data_.front().frame || fits(data_.front().frame))) {
        Outgoing& next = data_.front();
        if (next.frame && next.seq != 0 && !skips_.empty()) {
            const auto skips = skips_.find(next.stream);
            if (skips != skips_.end() && skips->second.begin()->first < next.seq) {
                const auto [from, to] = *skips->second.begin();
                add(frame(render_skipped(*next.stream, from, to, "slow", now)));
                ++counters_.skipped_notes;
                skips->second.erase(skips->second.begin());
                if (skips->second.empty()) {
                    skips_.erase(skips);
                }
                continue;
            }
        }
        if (FramePtr frame = drop_front()) {
            add(std::move(frame));
        }
    }
    if (data_.empty() && conflating_) {
        conflating_ = false;
        slots_ = decltype(slots_)();  // With its memory.
    }
    if (data_bytes_ <= limits_.bytes_max) {
        allowance_ = 0;
    }
    if (on_room_ && data_bytes_ < room_bytes_) {
        std::exchange(on_room_, nullptr)();
    }
    if (!taken.empty()) {
        last_sent_ = now.mono;
        counters_.messages += taken.size();
        counters_.bytes += bytes;
    }
    return taken;
}

FramePtr Session::drop_front() {
    Outgoing& front = data_.front();
    if (front.frame) {
        data_bytes_ -= front.frame->size();
        --live_items_;
        if (conflating_ && front.slot != 0) {
            const auto place = slots_.find(front.slot);
            if (place != slots_.end() && place->second == base_) {
                slots_.erase(place);
            }
        }
    }
    FramePtr dropped = std::move(front.frame);
    data_.pop_front();
    ++base_;
    return dropped;
}

void Session::close(Close why) {
    if (!closing_) {
        closing_ = std::move(why);
    }
}

}  // namespace sigmacast::edge
