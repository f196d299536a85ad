#include <cstdio>
#include <exception>
#include <variant>

#include "ops/cli/commands.h"
#include "ops/cli/options.h"
#include "ops/cli/output.h"

namespace sigmacast::cli {
namespace {

struct Run {
    int operator()(const std::monostate&) const { return kExitUsage; }
    int operator()(const TailCommand& command) const { return run_tail(command); }
    int operator()(const StateCommand& command) const { return run_state(command); }
    int operator()(const StatusCommand& command) const { return run_status(command); }
    int operator()(const LogCommand& command) const { return run_log(command); }
    int operator()(const PublishCommand& command) const { return run_publish(command); }
    int operator()(const CompressCommand& command) const { return run_compress(command); }
    int operator()(const KeygenCommand& command) const { return run_keygen(command); }
};

int run(int argc, char** argv) {
    ignore_broken_pipe();
    const Parsed parsed = parse_command_line(argc, argv);
    if (parsed.exit_code) {
        std::fputs(parsed.text.c_str(), *parsed.exit_code == kExitOk ? stdout : stderr);
        return *parsed.exit_code;
    }
    return std::visit(Run{}, parsed.command);
}

}  // namespace
}  // namespace sigmacast::cli

int main(int argc, char** argv) {
    try {
        return sigmacast::cli::run(argc, argv);
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "sigmacast: %s\n", problem.what());
        return sigmacast::cli::kExitFailed;
    }
}
