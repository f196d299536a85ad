// The subcommands: each runs to its end on the calling thread and returns the exit code. Problems
// are one sentence on standard error, beginning with `sigmacast:`.
#pragma once

#include "ops/cli/options.h"

namespace sigmacast::cli {

int run_tail(const TailCommand& command);
int run_state(const StateCommand& command);
int run_status(const StatusCommand& command);
int run_log(const LogCommand& command);
int run_publish(const PublishCommand& command);
int run_compress(const CompressCommand& command);
int run_keygen(const KeygenCommand& command);

}  // namespace sigmacast::cli
