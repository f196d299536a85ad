#include "common/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>
#include <cmath>
#include <cstring>
#include <msgpack.hpp>
#include <optional>

namespace sigmacast {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::string_view kHexDigits = "0123456789abcdef";

// ---- JSON text ----

unsigned char byte_at(std::string_view text, std::size_t i) {
    return static_cast<unsigned char>(text[i]);
}

bool is_plain(unsigned char byte) {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

/// Whether all of eight bytes are: in each, what is not plain sets the highest bit of one of these
/// terms (or borrows from the byte above it, but then it has set its own).
bool all_plain(std::uint64_t bytes) {
    constexpr std::uint64_t kEach = 0x0101010101010101;
    const std::uint64_t found = bytes | (bytes - kEach * 0x20) | ((bytes ^ kEach * '"') - kEach) |
                                ((bytes ^ kEach * '\\') - kEach);
    return (found & kEach * 0x80) == 0;
}

/// How many bytes at the start are plain.
std::size_t plain_prefix(std::string_view text) {
    std::size_t i = 0;
    for (std::uint64_t bytes = 0; text.size() - i >= sizeof bytes; i += sizeof bytes) {
        std::memcpy(&bytes, text.data() + i, sizeof bytes);
        if (!all_plain(bytes)) {
            break;
        }
    }
    while (i < text.size() && is_plain(byte_at(text, i))) {
        ++i;
    }
    return i;
}

struct Sequence {
    std::size_t size;  // Bytes to take.
    bool valid;
};

/// The UTF-8 sequence at the start of `text` (Unicode 15, table 3-7), or how many bytes of a broken
/// one make up one replacement character.
Sequence utf8_sequence(std::string_view text) {
    const unsigned char lead = byte_at(text, 0);
    if (lead < 0x80) {
        return {1, true};
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return {1, false};
    }
    const std::size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (std::size_t i = 1; i < size; ++i) {
        if (i >= text.size() || byte_at(text, i) < low || byte_at(text, i) > high) {
            return {i, false};
        }
        low = 0x80;
        high = 0xBF;
    }
    return {size, true};
}

void append_escape(std::string& out, unsigned char byte) {
    switch (byte) {
        case '"':
            out += "\\\"";
            return;
        case '\\':
            out += "\\\\";
            return;
        case '\b':
            out += "\\b";
            return;
        case '\f':
            out += "\\f";
            return;
        case '\n':
            out += "\\n";
            return;
        case '\r':
            out += "\\r";
            return;
        case '\t':
            out += "\\t";
            return;
        default:
            out += "\\u00";
            out += kHexDigits[byte >> 4];
            out += kHexDigits[byte & 15];
    }
}

template <class Number>
void append_number(std::string& out, Number value) {
    std::array<char, 40> text;
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    out.append(text.data(), end);
}

template <class Float>
void append_float(std::string& out, Float value) {
    constexpr Float kExactMax = 9007199254740992.0;  // 2^53
    if (!std::isfinite(value)) {
        out += "null";
    } else if (std::abs(value) < kExactMax && std::trunc(value) == value) {
        // The shortest form of 1e10 has an exponent, which a client that wants an integer cannot
        // read.
        append_number(out, static_cast<std::int64_t>(value));
    } else {
        append_number(out, value);
    }
}

void append_base64(std::string& out, std::string_view bytes) {
    constexpr std::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
        std::uint32_t group = static_cast<std::uint32_t>(byte_at(bytes, i)) << 16;
        group |= have > 1 ? static_cast<std::uint32_t>(byte_at(bytes, i + 1)) << 8 : 0;
        group |= have > 2 ? static_cast<std::uint32_t>(byte_at(bytes, i + 2)) : 0;
        out += kAlphabet[group >> 18];
        out += kAlphabet[(group >> 12) & 63];
        out += have > 1 ? kAlphabet[(group >> 6) & 63] : '=';
        out += have > 2 ? kAlphabet[group & 63] : '=';
    }
}

// ---- Reading msgpack ----

/// Counts and checks; a visit that returns false ends the parse.
class Checker : public msgpack::null_visitor {
 public:
    explicit Checker(const CodecLimits& limits) : limits_(limits) {}

    bool visit_nil() { return value(); }
    bool visit_boolean(bool) { return value(); }
    bool visit_positive_integer(std::uint64_t) { return value(); }
    bool visit_negative_integer(std::int64_t) { return value(); }
    bool visit_float32(float) { return value(); }
    bool visit_float64(double) { return value(); }
    bool visit_str(const char*, std::uint32_t) { return true; }
    bool visit_bin(const char*, std::uint32_t) { return value(); }
    bool visit_ext(const char*, std::uint32_t) {
        return fail(Errc::kInvalid, "an extension type, which JSON cannot carry");
    }
    bool start_array(std::uint32_t count) { return value() && enter(count); }
    bool end_array() { return leave(); }
    bool start_map(std::uint32_t count) { return value() && enter(count); }
    bool start_map_key() {
        in_key_ = true;
        return true;
    }
    bool end_map_key() {
        in_key_ = false;
        return true;
    }
    bool end_map() { return leave(); }

    [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 protected:
    /// Anything but a string is about to come.
    bool value() { return !in_key_ || fail(Errc::kInvalid, "a map key that is not a string"); }

 private:
    bool enter(std::uint32_t count) {
        if (++depth_ > limits_.depth_max) {
            return fail(Errc::kTooLarge,
                        "nested deeper than " + std::to_string(limits_.depth_max) + " levels");
        }
        elements_ += count;
        if (elements_ > limits_.elements_max) {
            return fail(Errc::kTooLarge,
                        "more than " + std::to_string(limits_.elements_max) + " elements");
        }
        return true;
    }
    bool leave() {
        --depth_;
        return true;
    }
    bool fail(Errc code, std::string why) {
        error_ = Error{code, "msgpack: " + std::move(why)};
        return false;
    }

    const CodecLimits& limits_;
    std::size_t depth_ = 0;
    std::size_t elements_ = 0;
    bool in_key_ = false;
    std::optional<Error> error_;
};

/// Writes JSON while it checks. Every item and member ends in a comma, which the closing bracket
/// replaces.
class JsonWriter : public Checker {
 public:
    JsonWriter(std::string& out, const CodecLimits& limits) : Checker(limits), out_(out) {}

    bool visit_nil() { return value() && text("null"); }
    bool visit_boolean(bool v) { return value() && text(v ? "true" : "false"); }
    bool visit_positive_integer(std::uint64_t v) {
        return value() && (append_number(out_, v), true);
    }
    bool visit_negative_integer(std::int64_t v) {
        return value() && (append_number(out_, v), true);
    }
    bool visit_float32(float v) { return value() && (append_float(out_, v), true); }
    bool visit_float64(double v) { return value() && (append_float(out_, v), true); }
    bool visit_str(const char* data, std::uint32_t size) {
        append_json_string(out_, {data, size});
        return true;
    }
    bool visit_bin(const char* data, std::uint32_t size) {
        if (!value()) {
            return false;
        }
        out_ += '"';
        append_base64(out_, {data, size});
        return text("\"");
    }
    bool start_array(std::uint32_t count) { return Checker::start_array(count) && text("["); }
    bool end_array_item() { return text(","); }
    bool end_array() { return Checker::end_array() && close(']'); }
    bool start_map(std::uint32_t count) { return Checker::start_map(count) && text("{"); }
    bool end_map_key() { return Checker::end_map_key() && text(":"); }
    bool end_map_value() { return text(","); }
    bool end_map() { return Checker::end_map() && close('}'); }

 private:
    bool text(std::string_view text) {
        out_ += text;
        return true;
    }
    bool close(char bracket) {
        if (out_.back() == ',') {
            out_.back() = bracket;
        } else {
            out_ += bracket;
        }
        return true;
    }

    std::string& out_;
};

template <class Visitor>
Result<> visit(std::string_view bytes, const CodecLimits& limits, Visitor& visitor) {
    if (bytes.size() > limits.bytes_max) {
        return Error{Errc::kTooLarge, "msgpack: " + std::to_string(bytes.size()) +
                                          " bytes, over the limit of " +
                                          std::to_string(limits.bytes_max)};
    }
    std::size_t end = 0;
    const bool complete = msgpack::parse(bytes.data(), bytes.size(), end, visitor);
    if (visitor.error()) {
        return *visitor.error();
    }
    if (!complete) {
        return Error{Errc::kInvalid, "msgpack: broken or cut off at byte " + std::to_string(end)};
    }
    if (end != bytes.size()) {
        return Error{Errc::kInvalid,
                     "msgpack: " + std::to_string(bytes.size() - end) + " bytes follow the value"};
    }
    return {};
}

bool starts_a_map(std::string_view bytes) {
    if (bytes.empty()) {
        return false;
    }
    const unsigned char lead = byte_at(bytes, 0);
    return (lead & 0xF0) == 0x80 || lead == 0xDE || lead == 0xDF;
}

// ---- Writing msgpack ----

struct Sink {
    std::string& out;
    void write(const char* data, std::size_t size) { out.append(data, size); }
};
using Packer = msgpack::packer<Sink>;

void pack(Packer& packer, Sink& sink, const boost::json::value& value);

/// By hand: the library's packer turns a whole double into an integer.
void pack_double(Sink& sink, double value) {
    const auto bits = std::bit_cast<std::uint64_t>(value);
    std::array<char, 9> bytes{'\xCB'};
    for (std::size_t i = 0; i < 8; ++i) {
        bytes[i + 1] = static_cast<char>((bits >> (56 - 8 * i)) & 0xFF);
    }
    sink.write(bytes.data(), bytes.size());
}

void pack_string(Packer& packer, std::string_view text) {
    const auto size = static_cast<std::uint32_t>(text.size());
    packer.pack_str(size).pack_str_body(text.data(), size);
}

void pack_members(Packer& packer, Sink& sink, const boost::json::object& object) {
    for (const auto& member : object) {
        pack_string(packer, {member.key().data(), member.key().size()});
        pack(packer, sink, member.value());
    }
}

void pack_object(Packer& packer, Sink& sink, const boost::json::object& object) {
    packer.pack_map(static_cast<std::uint32_t>(object.size()));
    pack_members(packer, sink, object);
}

void pack(Packer& packer, Sink& sink, const boost::json::value& value) {
    switch (value.kind()) {
        case boost::json::kind::null:
            packer.pack_nil();
            return;
        case boost::json::kind::bool_:
            value.get_bool() ? packer.pack_true() : packer.pack_false();
            return;
        case boost::json::kind::int64:
            packer.pack_int64(value.get_int64());
            return;
        case boost::json::kind::uint64:
            packer.pack_uint64(value.get_uint64());
            return;
        case boost::json::kind::double_:
            pack_double(sink, value.get_double());
            return;
        case boost::json::kind::string:
            pack_string(packer, {value.get_string().data(), value.get_string().size()});
            return;
        case boost::json::kind::array:
            packer.pack_array(static_cast<std::uint32_t>(value.get_array().size()));
            for (const boost::json::value& item : value.get_array()) {
                pack(packer, sink, item);
            }
            return;
        case boost::json::kind::object:
            pack_object(packer, sink, value.get_object());
            return;
    }
}

// ---- Reading JSON ----

/// Brackets and commas outside of strings: at least as many as there are elements.
std::size_t elements_at_most(std::string_view text) {
    std::size_t count = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"') {
            in_string = !in_string;
        } else if (in_string) {
            i += c == '\\' ? 1 : 0;
        } else if (c == ',' || c == '[' || c == '{') {
            ++count;
        }
    }
    return count;
}

Result<> check_json_size(std::string_view text, const CodecLimits& limits) {
    if (text.size() > limits.bytes_max) {
        return Error{Errc::kTooLarge, "JSON: " + std::to_string(text.size()) +
                                          " bytes, over the limit of " +
                                          std::to_string(limits.bytes_max)};
    }
    // An element takes two bytes at least, so short texts need no count.
    if (text.size() > limits.elements_max && elements_at_most(text) > limits.elements_max) {
        return Error{Errc::kTooLarge,
                     "JSON: more than " + std::to_string(limits.elements_max) + " elements"};
    }
    return {};
}

/// Builds the value as Boost.JSON's own parser does, but reads doubles to the last bit, which that
/// one does not do by default, and in 1.81 not at all.
struct JsonBuilder {
    using Text = boost::json::string_view;
    using Code = boost::system::error_code;
    static constexpr std::size_t max_object_size = boost::json::object::max_size();
    static constexpr std::size_t max_array_size = boost::json::array::max_size();
    static constexpr std::size_t max_key_size = boost::json::string::max_size();
    static constexpr std::size_t max_string_size = boost::json::string::max_size();

    bool on_document_begin(Code&) { return true; }
    bool on_document_end(Code&) { return true; }
    bool on_object_begin(Code&) { return true; }
    bool on_object_end(std::size_t size, Code&) { return stack.push_object(size), true; }
    bool on_array_begin(Code&) { return true; }
    bool on_array_end(std::size_t size, Code&) { return stack.push_array(size), true; }
    bool on_key_part(Text part, std::size_t, Code&) { return stack.push_chars(part), true; }
    bool on_key(Text rest, std::size_t, Code&) { return stack.push_key(rest), true; }
    bool on_string_part(Text part, std::size_t, Code&) { return stack.push_chars(part), true; }
    bool on_string(Text rest, std::size_t, Code&) { return stack.push_string(rest), true; }
    bool on_number_part(Text part, Code&) { return number.append(part), true; }
    bool on_int64(std::int64_t value, Text, Code&) { return push_number(value); }
    bool on_uint64(std::uint64_t value, Text, Code&) { return push_number(value); }
    bool on_double(double value, Text rest, Code& ec) {
        number.append(rest);
        std::from_chars(number.data(), number.data() + number.size(), value);
        if (!std::isfinite(value)) {
            ec = boost::json::error::exponent_overflow;  // 1e999 would go out as null.
            return false;
        }
        return push_number(value);
    }
    bool on_bool(bool value, Code&) { return stack.push_bool(value), true; }
    bool on_null(Code&) { return stack.push_null(), true; }
    bool on_comment_part(Text, Code&) { return true; }
    bool on_comment(Text, Code&) { return true; }

    template <class Number>
    bool push_number(Number value) {
        number.clear();
        if constexpr (std::is_same_v<Number, double>) {
            stack.push_double(value);
        } else if constexpr (std::is_signed_v<Number>) {
            stack.push_int64(value);
        } else {
            stack.push_uint64(value);
        }
        return true;
    }

    boost::json::value_stack stack;
    std::string number;  // The parts of one that ended at the edge of a buffer.
};

}  // namespace

Result<boost::json::value> parse_json(std::string_view text, const CodecLimits& limits) {
    if (const auto fits = check_json_size(text, limits); !fits) {
        return fits.error();
    }
    boost::json::parse_options options;
    options.max_depth = limits.depth_max;
    boost::json::basic_parser<JsonBuilder> parser(options);
    parser.handler().stack.reset();
    boost::system::error_code ec;
    const std::size_t end = parser.write_some(false, text.data(), text.size(), ec);
    if (!ec && end < text.size()) {
        ec = boost::json::error::extra_data;
    }
    if (ec == boost::json::error::too_deep) {
        return Error{Errc::kTooLarge,
                     "JSON: nested deeper than " + std::to_string(limits.depth_max) + " levels"};
    }
    if (ec) {
        return Error{Errc::kInvalid, "JSON: " + ec.message() + " at byte " + std::to_string(end)};
    }
    return parser.handler().stack.release();
}

std::string to_msgpack(const boost::json::value& value) {
    std::string out;
    Sink sink{out};
    Packer packer(sink);
    pack(packer, sink, value);
    return out;
}

std::string to_msgpack(const boost::json::object& object, std::string_view name,
                       std::string_view packed) {
    std::string out;
    Sink sink{out};
    Packer packer(sink);
    packer.pack_map(static_cast<std::uint32_t>(object.size()) + 1);
    pack_members(packer, sink, object);
    pack_string(packer, name);
    out += packed;
    return out;
}

Result<> append_json(std::string& out, std::string_view msgpack, const CodecLimits& limits) {
    const std::size_t before = out.size();
    JsonWriter writer(out, limits);
    auto result = visit(msgpack, limits, writer);
    if (!result) {
        out.resize(before);
    }
    return result;
}

Result<> check_map(std::string_view msgpack, const CodecLimits& limits) {
    if (!starts_a_map(msgpack)) {
        return Error{Errc::kInvalid, "msgpack: not a map"};
    }
    Checker checker(limits);
    return visit(msgpack, limits, checker);
}

void append_json_string(std::string& out, std::string_view text) {
    out += '"';
    while (!text.empty()) {
        const std::size_t plain = plain_prefix(text);
        out.append(text.data(), plain);
        text.remove_prefix(plain);
        if (text.empty()) {
            break;
        }
        if (byte_at(text, 0) < 0x80) {
            append_escape(out, byte_at(text, 0));
            text.remove_prefix(1);
            continue;
        }
        const Sequence sequence = utf8_sequence(text);
        out += sequence.valid ? text.substr(0, sequence.size) : kReplacement;
        text.remove_prefix(sequence.size);
    }
    out += '"';
}

}  // namespace sigmacast
