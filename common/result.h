// What can fail in normal operation returns a Result: a value, or an Error with a code to branch on
// and a message for a person. The message names what, where and what to do; callers add context
// with `error.within("reading x")`.
#pragma once

#include <boost/system/result.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sigmacast {

enum class Errc {
    kInvalid,      // The input is not what it should be; the same input will fail again.
    kTooLarge,     // Over a named limit.
    kTimeout,      // No answer within the deadline.
    kUnavailable,  // The other side cannot be reached, or broke off.
    kConflict,     // Somebody else holds what was asked for.
    kFull,         // A bounded queue or disk has no room now.
    kCorrupt,      // Stored bytes are not what was written.
    kUnsupported,  // A version or method that this side does not know.
    kNotFound,
    kInternal,
};

struct Error {
    Errc code = Errc::kInternal;
    std::string message;

    [[nodiscard]] Error within(std::string_view context) const {
        return {code, std::string(context) + ": " + message};
    }
};

/// Thrown by Result::value() on an error; only start-up code lets it travel.
class ErrorException : public std::runtime_error {
 public:
    explicit ErrorException(const Error& error) : std::runtime_error(error.message) {}
};

[[noreturn]] inline void throw_exception_from_error(const Error& error,
                                                    const boost::source_location&) {
    throw ErrorException(error);
}

template <class T = void>
using Result = boost::system::result<T, Error>;

}  // namespace sigmacast
