#include "ops/cli/compress_view.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <utility>

#include "common/codec.h"
#include "ops/cli/format.h"

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kBarWidth = 24;

std::string text_in(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->get_string())
                                                  : std::string();
}

std::optional<double> number_in(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_number() ? std::optional(value->to_number<double>())
                                                  : std::nullopt;
}

std::string fixed(double number, int digits) {
    std::string text(32, '\0');
    const int size = std::snprintf(text.data(), text.size(), "%.*f", digits, number);
    text.resize(static_cast<std::size_t>(std::max(size, 0)));
    return text;
}

Millis millis(double seconds) {
    constexpr double kMost = 1e9;  // Thirty years: what is left of a hang.
    return Millis(static_cast<std::int64_t>(std::clamp(seconds, 0.0, kMost) * 1000));
}

std::string ratio_text(double ratio) {
    return fixed(std::clamp(ratio, 0.0, 1e9), 2) + ":1";
}

Error refused(const json::object& error) {
    const std::string message = text_in(error, "message");
    const std::string data = text_in(error, "data");
    // "Internal error" says less than what comes with it.
    const std::string words = clean(data.empty() ? message : data, 2'000);
    const bool gone = words.find("not found") != std::string::npos;
    return {gone ? Errc::kNotFound : Errc::kInvalid, words.empty() ? "no reason given" : words};
}

}  // namespace

std::string rpc_call(std::string_view method, const json::object& params) {
    std::string text;
    const json::object call{{"jsonrpc", "2.0"}, {"method", method}, {"params", params}, {"id", 1}};
    // A name that is no UTF-8 is repaired, and then not found by the engine.
    return append_json(text, to_msgpack(call)) ? text : std::string();
}

Result<json::object> rpc_result(std::string_view body) {
    const Result<json::value> parsed = parse_json(body);
    if (!parsed || !parsed->is_object()) {
        return Error{Errc::kCorrupt, "the answer is not an engine's"};
    }
    const json::object& answer = parsed->get_object();
    if (const json::value* error = answer.if_contains("error"); error && error->is_object()) {
        return refused(error->get_object());
    }
    const json::value* result = answer.if_contains("result");
    if (result == nullptr || !result->is_object()) {
        return Error{Errc::kCorrupt, "the answer is not an engine's"};
    }
    return result->get_object();
}

bool JobView::ended() const {
    return status != "pending" && status != "running" && status != "queued" && status != "paused";
}

JobView job_view(const json::object& answer) {
    return {.status = clean(text_in(answer, "status"), 40),
            .error = clean(text_in(answer, "error"), 2'000),
            .output_path = clean(text_in(answer, "output_path"), 2'000),
            .progress = std::clamp(number_in(answer, "progress").value_or(0), 0.0, 100.0),
            .bytes_processed = number_in(answer, "bytes_processed"),
            .bytes_total = number_in(answer, "bytes_total"),
            .ratio = number_in(answer, "current_ratio"),
            .elapsed_seconds = number_in(answer, "elapsed_seconds"),
            .eta_seconds = number_in(answer, "eta_seconds")};
}

std::string progress_text(const JobView& job) {
    if (job.status == "pending") {
        return "waiting";
    }
    std::string text = fixed(job.progress, 1) + " %";
    if (job.bytes_processed && job.bytes_total) {
        text += "  " + bytes_text(*job.bytes_processed) + " of " + bytes_text(*job.bytes_total);
    }
    if (job.ratio && job.bytes_processed.value_or(0) > 0) {
        text += "  " + ratio_text(*job.ratio);
    }
    if (job.eta_seconds && *job.eta_seconds > 0) {
        text += "  " + countdown_text(millis(*job.eta_seconds)) + " left";
    }
    return text;
}

std::string progress_bar(const JobView& job) {
    const auto full = static_cast<std::size_t>(job.progress / 100 * kBarWidth);
    return "[" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "] " +
           progress_text(job);
}

std::string end_text(const JobView& job) {
    if (!job.completed()) {
        return job.status + (job.error.empty() ? "" : ": " + job.error);
    }
    std::string text = "completed" + (job.output_path.empty() ? "" : ": " + job.output_path);
    if (job.bytes_total && job.ratio && *job.ratio > 0) {
        text += "  " + bytes_text(*job.bytes_total) + " to " +
                bytes_text(*job.bytes_total / *job.ratio) + " (" + ratio_text(*job.ratio) + ")";
    }
    if (job.elapsed_seconds) {
        text += " in " + age_text(millis(*job.elapsed_seconds));
    }
    return text;
}

bool Milestones::is_next(const JobView& job) {
    const int tenth = static_cast<int>(job.progress / 10);
    const bool next = job.status != std::exchange(status_, job.status) || tenth > tenth_;
    tenth_ = std::max(tenth, tenth_);
    return next;
}

}  // namespace sigmacast::cli
