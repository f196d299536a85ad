#include "edge/event_id.h"

#include <algorithm>
#include <array>

#include "common/codec.h"
#include "common/sequence.h"

namespace sigmacast::edge {
namespace {

constexpr char kVersion = '\x01';
constexpr std::size_t kCheckBytes = 4;
constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";  // RFC 4648 5.

std::string to_base64url(std::string_view bytes) {
    std::string out;
    out.reserve((bytes.size() * 4 + 2) / 3);
    std::uint32_t bits = 0;
    int held = 0;
    for (const char c : bytes) {
        bits = bits << 8 | static_cast<unsigned char>(c);
        for (held += 8; held >= 6; held -= 6) {
            out += kAlphabet[bits >> (held - 6) & 63u];
        }
    }
    if (held > 0) {
        out += kAlphabet[bits << (6 - held) & 63u];
    }
    return out;
}

std::optional<std::string> from_base64url(std::string_view text) {
    std::string out;
    std::uint32_t bits = 0;
    int held = 0;
    for (const char c : text) {
        const std::size_t value = kAlphabet.find(c);
        if (value == std::string_view::npos) {
            return std::nullopt;
        }
        bits = bits << 6 | static_cast<std::uint32_t>(value);
        held += 6;
        if (held >= 8) {
            held -= 8;
            out += static_cast<char>(bits >> held & 0xffu);
        }
    }
    return out;
}

/// FNV-1a: an id that was cut or altered on its way is none, and not another place.
std::string check_of(std::string_view bytes) {
    std::uint32_t hash = 2'166'136'261u;
    for (const char c : bytes) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 16'777'619u;
    }
    std::string out;
    for (std::size_t i = 0; i < kCheckBytes; ++i) {
        out += static_cast<char>(hash >> (8 * i) & 0xffu);
    }
    return out;
}

void append_varint(std::string& out, std::uint64_t number) {
    for (; number >= 0x80; number >>= 7) {
        out += static_cast<char>(number | 0x80u);
    }
    out += static_cast<char>(number);
}

void append_text(std::string& out, std::string_view text) {
    append_varint(out, text.size());
    out += text;
}

/// Reads what the functions above have written; `good` is false from the first thing that is not.
struct Reader {
    std::string_view rest;
    bool good = true;

    std::uint64_t varint() {
        std::uint64_t number = 0;
        for (int shift = 0; good && shift < 64; shift += 7) {
            const std::string_view byte = bytes(1);
            const std::uint64_t value = byte.empty() ? 0 : static_cast<unsigned char>(byte[0]);
            number |= (value & 0x7fu) << shift;
            if ((value & 0x80u) == 0) {
                return number;
            }
        }
        good = false;
        return 0;
    }

    std::string text(std::size_t most) {
        const std::uint64_t size = varint();
        good = good && size <= most;
        return std::string(bytes(good ? size : 0));
    }

    std::string_view bytes(std::size_t size) {
        good = good && size <= rest.size();
        const std::string_view taken = rest.substr(0, good ? size : 0);
        rest.remove_prefix(taken.size());
        return taken;
    }
};

constexpr std::string_view kDigits = "0123456789abcdef";

/// Empty where it is no epoch of a log's.
std::string packed(std::string_view epoch) {
    std::string out;
    for (std::size_t i = 0; i + 1 < epoch.size(); i += 2) {
        const std::size_t high = kDigits.find(epoch[i]);
        const std::size_t low = kDigits.find(epoch[i + 1]);
        if (high == std::string_view::npos || low == std::string_view::npos) {
            return {};
        }
        out += static_cast<char>(high * 16 + low);
    }
    return epoch.size() == 2 * EventId::kEpochBytes ? out : std::string();
}

std::string unpacked(std::string_view bytes) {
    std::string out;
    for (const char c : bytes) {
        out += kDigits[static_cast<unsigned char>(c) >> 4];
        out += kDigits[static_cast<unsigned char>(c) & 15u];
    }
    return out;
}

}  // namespace

std::string EventId::token() const {
    const std::string epoch = packed(epoch_);
    if (epoch.empty() || marks_.left_out > pos_) {
        return {};
    }
    std::string bytes = kVersion + epoch;
    append_varint(bytes, pos_);
    for (auto each = marks_.at.begin(); each != marks_.at.end();) {
        const std::string& origin = each->first.first;
        const auto end = std::find_if(
            each, marks_.at.end(), [&](const auto& other) { return other.first.first != origin; });
        append_text(bytes, origin);
        append_varint(bytes, static_cast<std::uint64_t>(std::distance(each, end)));
        for (; each != end; ++each) {
            append_text(bytes, each->first.second);
            append_varint(bytes, each->second - pos_);
        }
        if (bytes.size() > kTokenBytesMax) {
            return {};
        }
    }
    std::string token = to_base64url(bytes + check_of(bytes));
    return token.size() <= kTokenBytesMax ? token : std::string();
}

std::optional<EventId> EventId::parse(std::string_view token) {
    if (token.size() > kTokenBytesMax) {
        return std::nullopt;
    }
    const auto bytes = from_base64url(token);
    if (!bytes || bytes->size() <= kCheckBytes || bytes->front() != kVersion) {
        return std::nullopt;
    }
    const std::string_view whole = *bytes;
    Reader reader{whole.substr(1, whole.size() - 1 - kCheckBytes)};
    EventId id;
    id.epoch_ = unpacked(reader.bytes(kEpochBytes));
    id.pos_ = reader.varint();
    reader.good = reader.good && id.pos_ <= sequence::kSeqMax;  // No log counts further.
    while (reader.good && !reader.rest.empty()) {
        const std::string origin = reader.text(kNameBytesMax);
        for (std::uint64_t left = reader.varint(); reader.good && left > 0; --left) {
            std::string topic = reader.text(kNameBytesMax);
            const std::uint64_t beyond = reader.varint();
            reader.good = reader.good && beyond <= sequence::kSeqMax - id.pos_;
            id.marks_.at[{origin, std::move(topic)}] = id.pos_ + beyond;
        }
    }
    // One way to write each: whatever else was done to it shows here.
    if (!reader.good || check_of(whole.substr(0, whole.size() - kCheckBytes)) !=
                            whole.substr(whole.size() - kCheckBytes)) {
        return std::nullopt;
    }
    return id.token() == token ? std::optional(std::move(id)) : std::nullopt;
}

std::string EventId::resume() const {
    std::string out = "{";
    append_member(out, "epoch", epoch_);
    append_member(out, "pos", pos_);
    out += ",\"topics\":{";
    std::map<std::string_view, std::string> topics;
    for (const auto& [stream, pos] : marks_.at) {
        std::string& origins = topics.try_emplace(stream.second, "{").first->second;
        origins += origins.back() == '{' ? "" : ",";
        append_json_string(origins, stream.first);
        origins += ':' + std::to_string(pos);
    }
    for (const auto& [topic, origins] : topics) {
        out += out.back() == '{' ? "" : ",";
        append_json_string(out, topic);
        out += ':' + origins + '}';
    }
    return out + "}}";
}

void EventId::mark(Marks& marks, const Place& place) {
    const bool fits = marks.at.size() < kMarksMax && place.origin.size() <= kNameBytesMax &&
                      place.topic.size() <= kNameBytesMax;
    const Stream stream(place.origin, place.topic);
    if (const auto known = marks.at.find(stream); known != marks.at.end()) {
        known->second = std::max(known->second, place.pos);
    } else if (fits) {
        marks.at.emplace(stream, place.pos);
    } else {
        marks.left_out = std::max(marks.left_out, place.pos);
    }
}

bool EventId::pass(const Place& place) {
    if (place.pos == 0) {
        return false;
    }
    if (place.replay && place.state) {
        return false;  // It comes by keys, before events of its topic that it is newer than.
    }
    if (!epoch_.empty() && place.epoch == epoch_) {
        if (place.pos > pos_) {
            mark(marks_, place);
        }
        return true;
    }
    if (place.epoch != later_epoch_) {
        later_epoch_ = place.epoch;
        later_ = {};
    }
    mark(later_, place);
    return false;
}

void EventId::forget() {
    epoch_.clear();
    pos_ = 0;
    marks_ = {};
}

void EventId::reach(std::string_view epoch, std::uint64_t pos) {
    if (epoch.empty()) {
        return;
    }
    if (epoch_ != epoch) {
        forget();
        epoch_ = epoch;
    }
    pos_ = std::max(pos_, pos);
    if (later_epoch_ == epoch_) {
        marks_.left_out = std::max(marks_.left_out, later_.left_out);
        for (const auto& [stream, at] : later_.at) {
            if (at > pos_) {
                mark(marks_, {.topic = stream.second, .origin = stream.first, .pos = at});
            }
        }
    }
    later_ = {};
    later_epoch_.clear();
    std::erase_if(marks_.at, [this](const auto& each) { return each.second <= pos_; });
}

}  // namespace sigmacast::edge
