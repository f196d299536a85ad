// One line of `sigmacast publish`'s input: {"type":"note","key":"k","data":{..}}, optionally with
// "kind" (event, state) and, for state, "final". Pure; thread safe (no state).
#pragma once

#include <string_view>

#include "common/message.h"

namespace sigmacast::cli {

/// Longer lines are refused; the data of an event is bound by common/codec.h besides.
inline constexpr std::size_t kLineBytesMax = 4u << 20;
inline constexpr std::size_t kTypeBytesMax = 128;
inline constexpr std::size_t kKeyBytesMax = 1024;

/// A value (`state`) or an event as the line says, without position, origin and time. Errors:
/// kInvalid, kTooLarge; the message says what is wrong with the line.
Result<Message> parse_event_line(std::string_view line, bool state);

}  // namespace sigmacast::cli
