// Logging: one line a change of state, `time level program message key=value ...`, to standard
// error. Traffic is counted (metrics.h), not logged. Thread safe; synchronous, so no line is lost.
//
//     log_info("breaker opened", {{"breaker", name}, {"failures", failures}});
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace sigmacast {

struct LogField {
    std::string_view key;
    std::string value;

    template <class T>
    LogField(std::string_view k, const T& v) : key(k), value(text(v)) {}

 private:
    template <class T>
    static std::string text(const T& v) {
        if constexpr (std::is_same_v<T, bool>) {
            return v ? "true" : "false";
        } else if constexpr (std::is_arithmetic_v<T>) {
            return std::to_string(v);
        } else {
            return std::string(v);
        }
    }
};
using LogFields = std::initializer_list<LogField>;

/// Level is debug, info, warn or error. To be called once, before the first line; later lines carry
/// `program`.
void log_start(std::string_view program, std::string_view level);
/// Lines of the calling thread carry `program/number` from now on; 0: as they were.
void log_thread(unsigned number);

void log_debug(std::string_view message, LogFields fields = {});
void log_info(std::string_view message, LogFields fields = {});
void log_warn(std::string_view message, LogFields fields = {});
void log_error(std::string_view message, LogFields fields = {});

}  // namespace sigmacast
