#include "common/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <array>
#include <cstdio>
#include <memory>

namespace sigmacast {
namespace {

struct State {
    State()
        : logger("sigmacast", std::make_shared<spdlog::sinks::stderr_sink_mt>()),
          program("sigmacast") {
        logger.set_formatter(std::make_unique<spdlog::pattern_formatter>(
            "%Y-%m-%dT%H:%M:%S.%eZ %v", spdlog::pattern_time_type::utc));
    }
    spdlog::logger logger;
    std::string program;
};

thread_local unsigned thread_number = 0;

/// Never destroyed: a static object's destructor may still want to log.
State& state() {
    static State& state = *new State;
    return state;
}

spdlog::level::level_enum level_of(std::string_view name) {
    if (name == "off") {
        return spdlog::level::off;
    }
    if (name == "debug") {
        return spdlog::level::debug;
    }
    if (name == "warn") {
        return spdlog::level::warn;
    }
    if (name == "error") {
        return spdlog::level::err;
    }
    return spdlog::level::info;
}

/// What would end the line, or let a value pass for another field or steer a terminal, is written
/// as an escape.
void append_escaped(std::string& line, std::string_view text) {
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            line.append({'\\', c});
        } else if (c == '\n') {
            line += "\\n";
        } else if (byte < 0x20 || byte == 0x7f) {
            std::array<char, 8> escape{};
            std::snprintf(escape.data(), escape.size(), "\\x%02x", byte);
            line += escape.data();
        } else {
            line.push_back(c);
        }
    }
}

bool needs_quotes(std::string_view value) {
    for (const char c : value) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte <= 0x20 || byte == 0x7f || c == '"' || c == '\\' || c == '=') {
            return true;
        }
    }
    return value.empty();
}

void append_message(std::string& line, std::string_view message) {
    if (message.find_first_of("\n\r\t\x1b") == std::string_view::npos) {
        line += message;
    } else {
        append_escaped(line, message);
    }
}

void write(spdlog::level::level_enum level, std::string_view name, std::string_view message,
           LogFields fields) {
    State& log = state();
    if (!log.logger.should_log(level)) {
        return;
    }
    std::string line(name);
    line.append(" ").append(log.program);
    if (thread_number != 0) {
        line.append("/").append(std::to_string(thread_number));
    }
    line.append(" ");
    append_message(line, message);
    for (const LogField& field : fields) {
        line.append(" ").append(field.key).append("=");
        if (needs_quotes(field.value)) {
            line += '"';
            append_escaped(line, field.value);
            line += '"';
        } else {
            line += field.value;
        }
    }
    log.logger.log(level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

void log_start(std::string_view program, std::string_view level) {
    state().program = program;
    state().logger.set_level(level_of(level));
}

void log_thread(unsigned number) {
    thread_number = number;
}

void log_debug(std::string_view message, LogFields fields) {
    write(spdlog::level::debug, "debug", message, fields);
}
void log_info(std::string_view message, LogFields fields) {
    write(spdlog::level::info, "info", message, fields);
}
void log_warn(std::string_view message, LogFields fields) {
    write(spdlog::level::warn, "warn", message, fields);
}
void log_error(std::string_view message, LogFields fields) {
    write(spdlog::level::err, "error", message, fields);
}

}  // namespace sigmacast
