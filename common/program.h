// How each of the programs starts, so that all of them answer the same options in the same way:
// --config, --check,
// --data-dir, --log-level, --version and --help, and what a program adds of its own. Command-line
// parsing stays in the .cc. Runs on: the main thread, before anything else.
//
//     int main(int argc, char** argv) {
//         std::optional<std::uint16_t> port;
//         sigmacast::ProgramInfo info{
//             .name = "sigmacast-edge",
//             .summary = "Fans the feed out to browsers.",
//             .options = {{"--port", "Port of the WebSocket server", &port}},
//             .apply = [&](sigmacast::Settings& settings) {
//                 if (port) { settings.edge.port = *port; }
//             }};
//         return sigmacast::run_program(argc, argv, info, run_edge);
//     }
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/settings.h"

namespace sigmacast {

/// 0 is a clean end; supervisor restarts after kExitFailed and need not after kExitUsage.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;  // A bad option, or a configuration that was refused.

/// An option of one program. What it points to is set when the option is given, before `apply` is
/// called.
struct ProgramOption {
    std::string flags;  // As "--port" or "-p,--port".
    std::string help;
    std::variant<bool*, std::optional<std::string>*, std::optional<std::uint16_t>*,
                 std::vector<std::string>*>
        value;
};

struct ProgramInfo {
    std::string name;     // As "sigmacast-edge"; what log lines begin with.
    std::string summary;  // One line for --help.
    std::vector<ProgramOption> options = {};
    /// Puts the options into the settings; they win over file and environment, and are checked with
    /// them.
    std::function<void(Settings&)> apply = nullptr;
    /// What only this program can judge (a key); what it refuses is refused as the settings are.
    std::function<Result<>(const Settings&)> check = nullptr;
    /// Adds what a person should know of settings that were found good all the same.
    std::function<void(const Settings&, std::vector<std::string>& notes)> remark = nullptr;
};

/// Parses, loads and checks the settings, starts the log, and calls `body`, whose result is the
/// exit code. With
/// --check, or where something is wrong, `body` is not called: every problem has its line on
/// standard error and the code is kExitUsage. An exception out of `body` is one line and
/// kExitFailed.
int run_program(int argc, const char* const* argv, const ProgramInfo& info,
                const std::function<int(const Settings&)>& body);

}  // namespace sigmacast
