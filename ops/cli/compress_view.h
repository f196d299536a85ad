// What `sigmacast compress` reads from the engine's answers, and how it shows a job: a bar that
// moves on a terminal, a line for each tenth elsewhere. Pure. The engine's texts are cleaned, since
// a file's name may hold anything.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace sigmacast::cli {

/// A call as JSON-RPC 2.0. One at a time is asked, so the id is always 1.
std::string rpc_call(std::string_view method, const boost::json::object& params);

/// The result in an answer. Errors: kNotFound (the engine knows no such job), kInvalid (the engine
/// refuses, in its own words), kCorrupt (no answer of an engine).
Result<boost::json::object> rpc_result(std::string_view body);

/// A job as compression.queue.status tells it; an engine may leave out what is optional.
struct JobView {
    std::string status;
    std::string error;
    std::string output_path;
    double progress = 0;
    std::optional<double> bytes_processed = {};
    std::optional<double> bytes_total = {};
    std::optional<double> ratio = {};
    std::optional<double> elapsed_seconds = {};
    std::optional<double> eta_seconds = {};

    [[nodiscard]] bool ended() const;
    [[nodiscard]] bool completed() const { return status == "completed"; }
};
JobView job_view(const boost::json::object& answer);

/// "45.0 %  12 MiB of 27 MiB  2.71:1  0:12 left", or "waiting".
std::string progress_text(const JobView& job);
/// The same behind "[##########..............]".
std::string progress_bar(const JobView& job);
/// "completed: /m/x.zst  27 MiB to 10 MiB (2.71:1) in 4.0 s", "failed: no room", "cancelled".
std::string end_text(const JobView& job);

/// Which lines are worth one where there is no terminal: a new status, and each further tenth.
class Milestones {
 public:
    bool is_next(const JobView& job);

 private:
    std::string status_;
    int tenth_ = -1;
};

}  // namespace sigmacast::cli
