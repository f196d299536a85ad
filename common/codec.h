// msgpack inside, JSON outside. Every reader here is bounded: depth, element counts and bytes are
// checked before anything is allocated for them, so a hostile frame costs its own length and no
// more. Thread safe (no state).
#pragma once

#include <boost/json/fwd.hpp>
#include <cstddef>
#include <string>
#include <string_view>

#include "common/result.h"

namespace sigmacast {

struct CodecLimits {
    std::size_t bytes_max = 4u << 20;    // One event's data.
    std::size_t elements_max = 100'000;  // Members and items, all levels together.
    std::size_t depth_max = 32;
};

/// JSON text to a value. Errors: kInvalid with the byte where it stops being JSON, kTooLarge.
Result<boost::json::value> parse_json(std::string_view text, const CodecLimits& limits = {});

/// A JSON value as msgpack. Object members keep their order.
std::string to_msgpack(const boost::json::value& value);
/// The same of an object, with one more member behind the others: its value is msgpack already.
std::string to_msgpack(const boost::json::object& object, std::string_view name,
                       std::string_view packed);

/// Appends msgpack as JSON text. Invalid UTF-8 becomes U+FFFD; NaN and infinities become null.
/// On an error (kInvalid, kTooLarge) `out` is as it was before the call.
Result<> append_json(std::string& out, std::string_view msgpack, const CodecLimits& limits = {});

/// Checks that the bytes are one msgpack map within the limits, and nothing else.
Result<> check_map(std::string_view msgpack, const CodecLimits& limits = {});

/// Appends `text` as a quoted JSON string, repaired where it is not UTF-8.
void append_json_string(std::string& out, std::string_view text);

}  // namespace sigmacast
