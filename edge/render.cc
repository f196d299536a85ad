#include "edge/render.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

#include "common/codec.h"

namespace sigmacast::edge {
namespace {

void append_number(std::string& out, std::int64_t number) {
    char digits[24];
    const auto end = std::to_chars(std::begin(digits), std::end(digits), number).ptr;
    out.append(digits, end);
}

void append_name(std::string& out, std::string_view name) {
    if (!out.empty() && out.back() != '{' && out.back() != ',' && out.back() != '[') {
        out += ',';
    }
    out += '"';
    out += name;
    out += "\":";
}

void append_raw(std::string& out, std::string_view name, std::string_view json) {
    append_name(out, name);
    out += json;
}

std::string open_envelope(std::string_view type, Wall at, std::size_t reserve) {
    std::string out;
    out.reserve(reserve);
    out += '{';
    append_member(out, "type", type);
    append_member(out, "timestamp", to_rfc3339(at));
    return out;
}

/// Where the JSON string that opens at `i` ends: the index after its closing quote.
std::size_t after_string(std::string_view text, std::size_t i) {
    for (++i; i < text.size(); ++i) {
        if (text[i] == '\\') {
            ++i;
        } else if (text[i] == '"') {
            return i + 1;
        }
    }
    return text.size();
}

struct Member {
    std::string_view name;
    std::size_t begin = 0;  // Of the opening quote of the name.
    std::size_t end = 0;    // After the value.
};

/// The next outer member at or after `i`, which points behind the brace or comma; nullopt at the
/// end of the object.
std::optional<Member> next_member(std::string_view text, std::size_t i) {
    while (i < text.size() && text[i] != '"' && text[i] != '}') {
        ++i;
    }
    if (i >= text.size() || text[i] == '}') {
        return std::nullopt;
    }
    Member member{.name = {}, .begin = i, .end = after_string(text, i)};
    member.name = text.substr(i + 1, member.end - i - 2);
    int depth = 0;
    for (i = member.end; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"') {
            i = after_string(text, i) - 1;
        } else if (c == '{' || c == '[') {
            ++depth;
        } else if (depth > 0 && (c == '}' || c == ']')) {
            --depth;
        } else if (depth == 0 && (c == ',' || c == '}')) {
            break;
        }
    }
    member.end = i;
    return member;
}

/// What follows the name and its colon, as this file writes them.
std::string_view value_of(std::string_view text, const Member& member) {
    const std::size_t begin = member.begin + member.name.size() + 3;
    return text.substr(begin, member.end - begin);
}

/// A JSON string's value.
std::string plain_text(std::string_view json) {
    if (json.find('\\') == std::string_view::npos) {
        return std::string(json.size() < 2 ? json : json.substr(1, json.size() - 2));
    }
    const auto parsed = parse_json(json);
    const auto* text = parsed ? parsed->if_string() : nullptr;
    return text ? std::string(*text) : std::string();
}

/// State that no poll feeds is never shown as fed by one.
std::string_view shown_poll(std::string_view poll) {
    return is_state_poll(poll) ? std::string_view{} : poll;
}

bool among(std::string_view name, const std::vector<std::string_view>& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

const std::vector<std::string_view> kStaleMembers = {"stale", "error_code", "last_update"};

void append_data(std::string& out, const Value& value, const Age& age, Wall at) {
    const bool state = value.kind == Kind::kValue;
    const std::string_view json = value.json ? std::string_view(*value.json) : "{}";
    append_name(out, "data");
    out += state && value.reserved ? without_members(json, kStaleMembers) : json;
    out.pop_back();  // The closing brace.
    append_name(out, "timestamp");
    append_number(out, unix_seconds(at));
    if (state) {
        const bool stale = age.quality != Quality::kLive;
        append_raw(out, "stale", stale ? "true" : "false");
        if (stale) {
            append_member(out, "error_code", age.reason);
            if (age.as_of) {
                append_member(out, "last_update", to_rfc3339(age.as_of->wall));
            }
        }
    }
    out += '}';
}

void append_position(std::string& out, std::uint64_t seq, std::uint64_t pos,
                     std::string_view epoch) {
    if (seq != 0) {
        append_member(out, "seq", seq);
    }
    if (pos != 0) {
        append_member(out, "pos", pos);
        append_member(out, "epoch", epoch);
    }
}

}  // namespace

void append_member(std::string& out, std::string_view name, std::string_view text) {
    append_name(out, name);
    append_json_string(out, text);
}

void append_member(std::string& out, std::string_view name, std::uint64_t number) {
    append_name(out, name);
    char digits[24];
    const auto end = std::to_chars(std::begin(digits), std::end(digits), number).ptr;
    out.append(digits, end);
}

void append_frame_head(std::string& out, unsigned char first, std::size_t payload_bytes) {
    out += static_cast<char>(first);
    const std::uint64_t size = payload_bytes;
    if (size < 126) {
        out += static_cast<char>(size);
    } else {
        const int bytes = size <= 0xffff ? 2 : 8;
        out += static_cast<char>(bytes == 2 ? 126 : 127);
        for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) {
            out += static_cast<char>((size >> shift) & 0xff);
        }
    }
}

FramePtr frame(std::string_view payload, Bytes data) {
    constexpr unsigned char kFinalText = 0x81;
    std::string text;
    text.reserve(payload.size() + 10);
    append_frame_head(text, kFinalText, payload.size());
    text += payload;
    return std::make_shared<const Frame>(std::move(text), std::move(data));
}

std::string_view payload_of(std::string_view frame) {
    const int size = static_cast<unsigned char>(frame[1]);
    return frame.substr(size < 126 ? 2 : size == 126 ? 4 : 10);
}

Place place_of(std::string_view message) {
    Place place;
    std::string_view data;
    std::size_t i = 1;
    while (const auto member = next_member(message, i)) {
        i = member->end;
        const std::string_view value = value_of(message, *member);
        if (member->name == "type") {
            place.type = plain_text(value);
        } else if (member->name == "data") {
            data = value;
        } else if (member->name == "origin") {
            place.origin = plain_text(value);
        } else if (member->name == "epoch") {
            place.epoch = plain_text(value);
        } else if (member->name == "pos") {
            std::from_chars(value.data(), value.data() + value.size(), place.pos);
        } else if (member->name == "replay") {
            place.replay = value == "true";
        } else if (member->name == "quality") {
            place.state = true;
        }
    }
    place.topic = place.type;
    if (place.type == "transition") {
        i = 1;
        while (const auto member = next_member(data, i)) {
            i = member->end;
            if (member->name == "topic") {
                place.topic = plain_text(value_of(data, *member));
            }
        }
    }
    // The edge's own messages have no origin: their `pos` is a bookmark.
    place.pos = place.origin.empty() ? 0 : place.pos;
    return place;
}

std::string without_members(std::string_view object, const std::vector<std::string_view>& names) {
    std::string out = "{";
    std::size_t i = 1;
    while (const auto member = next_member(object, i)) {
        if (!among(member->name, names)) {
            if (out.size() > 1) {
                out += ',';
            }
            out += object.substr(member->begin, member->end - member->begin);
        }
        i = member->end + 1;
        if (member->end >= object.size() || object[member->end] == '}') {
            break;
        }
    }
    out += '}';
    return out;
}

bool has_member(std::string_view object, const std::vector<std::string_view>& names) {
    std::size_t i = 1;
    while (const auto member = next_member(object, i)) {
        if (among(member->name, names)) {
            return true;
        }
        if (member->end >= object.size() || object[member->end] == '}') {
            return false;
        }
        i = member->end + 1;
    }
    return false;
}

void append_age(std::string& out, const Age& age, Now now) {
    append_member(out, "quality", to_string(age.quality));
    if (age.as_of) {
        append_member(out, "as_of", to_rfc3339(age.as_of->wall));
        append_member(out, "age_ms",
                      static_cast<std::uint64_t>(elapsed(age.as_of->mono, now.mono).count()));
        if (age.uncertain) {
            append_raw(out, "age_uncertain", "true");
        }
    }
    if (!age.reason.empty()) {
        append_member(out, "reason", age.reason);
    }
    if (!age.source.empty()) {
        append_member(out, "source", age.source);
    }
    if (age.retry_at) {
        append_member(out, "retry_at", to_rfc3339(*age.retry_at));
    }
}

std::string render_value(const Value& value, const Age& age, Dialect, Now now, bool replay) {
    const bool state = value.kind == Kind::kValue;
    const Wall at = state ? now.wall : value.at;
    std::string out =
        open_envelope(value.stream->topic, at, (value.json ? value.json->size() : 2) + 512);
    append_data(out, value, age, at);
    append_member(out, "origin", value.stream->origin);
    if (!value.key.empty()) {
        append_member(out, "key", value.key);
    }
    if (const std::string_view poll = shown_poll(value.poll); !poll.empty()) {
        append_member(out, "poll", poll);
    }
    append_position(out, value.seq, value.pos, value.epoch);
    if (state) {
        append_age(out, age, now);
    }
    if (replay) {
        append_raw(out, "replay", "true");
    }
    if (value.final) {
        append_raw(out, "final", "true");
    }
    if (!value.durable) {
        append_raw(out, "durable", "false");
    }
    out += '}';
    return out;
}

std::string mark_replay(std::string_view rendered) {
    std::string out(rendered.substr(0, rendered.size() - 1));
    append_raw(out, "replay", "true");
    out += '}';
    return out;
}

std::string render_transition(const Transition& transition, Now now) {
    std::string out = open_envelope("transition", now.wall, 512);
    append_raw(out, "data", "{");
    append_member(out, "topic", transition.stream->topic);
    append_member(out, "poll", shown_poll(transition.poll));
    append_raw(out, "keys", "[");
    for (const std::string& key : transition.keys) {
        if (out.back() != '[') {
            out += ',';
        }
        append_json_string(out, key);
    }
    out += "]}";
    append_member(out, "origin", transition.stream->origin);
    append_position(out, transition.seq, transition.pos, transition.epoch);
    append_age(out, transition.age, now);
    out += '}';
    return out;
}

std::string render_tick(const Source& source, const std::vector<std::string>* keys, Now now) {
    std::string out = open_envelope("tick", now.wall, 384);
    append_raw(out, "data", "{");
    append_member(out, "poll", shown_poll(source.poll));
    append_member(out, "topic", source.topic);
    if (keys) {
        append_raw(out, "keys", "[");
        for (const std::string& key : *keys) {
            if (out.back() != '[') {
                out += ',';
            }
            append_json_string(out, key);
        }
        out += ']';
    }
    out += '}';
    append_member(out, "origin", source.origin);
    append_age(out, source.age, now);
    out += '}';
    return out;
}

std::string render_skipped(const Stream& stream, std::uint64_t from, std::uint64_t to,
                           std::string_view why, Now now, const std::string* key) {
    std::string data = "{";
    append_member(data, "topic", stream.topic);
    if (from != 0) {
        append_member(data, "from", from);
        append_member(data, "to", to);
    }
    append_member(data, "why", why);
    if (key) {
        append_member(data, "key", *key);
    }
    data += '}';
    std::string rest;
    append_member(rest, "origin", stream.origin);
    return render_plain("skipped", {}, data, rest, now);
}

std::string render_plain(std::string_view type, std::string_view id, std::string_view data,
                         std::string_view rest, Now now) {
    std::string out = open_envelope(type, now.wall, 128 + data.size() + rest.size());
    if (!data.empty()) {
        append_raw(out, "data", data);
    }
    if (!id.empty()) {
        append_raw(out, "id", id);
    }
    if (!rest.empty()) {
        out += ',';
        out += rest;
    }
    out += '}';
    return out;
}

std::string render_goodbye(std::uint16_t code, std::string_view reason, Millis hint, Now now) {
    std::string data = "{";
    append_member(data, "code", std::uint64_t{code});
    append_member(data, "reason", reason);
    append_member(data, "reconnect_in_ms", static_cast<std::uint64_t>(hint.count()));
    data += '}';
    return render_plain("goodbye", {}, data, {}, now);
}

std::string render_error(std::string_view id, int code, std::string_view name,
                         std::string_view message, bool temporary, Now now,
                         std::string_view topic) {
    std::string data = "{";
    append_member(data, "code", static_cast<std::uint64_t>(code));
    append_member(data, "name", name);
    append_member(data, "message", message);
    append_raw(data, "temporary", temporary ? "true" : "false");
    if (!topic.empty()) {
        append_member(data, "topic", topic);
    }
    data += '}';
    return render_plain("error", id, data, {}, now);
}

void append_source(std::string& out, const Source& source, Now now) {
    out += '{';
    append_member(out, "origin", source.origin);
    append_member(out, "poll", source.poll);
    append_member(out, "topic", source.topic);
    append_age(out, source.age, now);
    out += '}';
}

}  // namespace sigmacast::edge
