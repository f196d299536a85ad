#include <unistd.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "common/http.h"
#include "common/loop.h"
#include "common/settings.h"
#include "ops/cli/commands.h"
#include "ops/cli/compress_view.h"
#include "ops/cli/format.h"
#include "ops/cli/output.h"
#include "ops/cli/remote.h"

namespace sigmacast::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr Millis kAskEvery{200};
constexpr Millis kSilenceMax{10'000};  // Of the engine, in the middle of a job.

/// As the engine wants it: absolute, links on the way resolved. The file itself is the engine's to
/// find, or to refuse where it is a link.
std::string absolute_path(const std::string& file) {
    std::error_code failed;
    const fs::path path = fs::absolute(file, failed);
    const fs::path folder = fs::canonical(path.parent_path(), failed);
    return failed ? path.lexically_normal().string() : (folder / path.filename()).string();
}

/// In the engine's own words; anything else did not come from an engine.
bool is_refusal(const Error& error) {
    return error.code == Errc::kInvalid || error.code == Errc::kNotFound;
}

Result<json::object> result_of(const Result<http::Response>& answer) {
    if (!answer) {
        return Error{Errc::kUnavailable, answer.error().message};
    }
    if (answer->status != 200) {
        return Error{Errc::kCorrupt, "it answers HTTP " + std::to_string(answer->status)};
    }
    return rpc_result(answer->body);
}

bool can_draw() {
    const char* term = std::getenv("TERM");
    return ::isatty(STDOUT_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

/// One `sigmacast compress`: submits, asks how it is until it has ended, cancels at Ctrl-C. Runs
/// on: the loop.
class Compress {
 public:
    Compress(const CompressCommand& command, std::shared_ptr<tls::Client> tls)
        : command_(command),
          base_(engine_base((command.engine.tls ? "https://" : "http://") +
                            command.engine.authority() + command.engine.path)),
          client_(loop_, base_, {.tls = std::move(tls)}),
          timer_(loop_, [this] { ask(); }) {}

    int run() {
        loop_.on_terminate([this] { interrupt(); });
        call("compression.queue.submit",
             {{"type", "compress_file"},
              {"source_path", absolute_path(command_.file)},
              {"priority", command_.priority}},
             [this](const Result<json::object>& answer) { submitted(answer); });
        loop_.run();
        return exit_code_;
    }

 private:
    void call(std::string_view method, const json::object& params,
              std::function<void(const Result<json::object>&)> done) {
        client_.request("POST", "/rpc", rpc_call(method, params), system_now().mono + kRequestMax,
                        [done = std::move(done)](const Result<http::Response>& answer) {
                            done(result_of(answer));
                        });
    }

    void submitted(const Result<json::object>& answer) {
        const json::value* id = answer ? answer->if_contains("job_id") : nullptr;
        if (!answer && is_refusal(answer.error())) {
            return fail("the engine refuses: " + answer.error().message);
        }
        if (id == nullptr || !id->is_string()) {
            return fail("cannot submit to " + base_ + ": " +
                        (answer ? "the answer is not an engine's" : answer.error().message) +
                        ". Is it an engine, and running? ops/run --status tells; --engine names "
                        "another");
        }
        id_ = std::string(id->get_string());
        answered_ = system_now().mono;
        if (!draws_) {
            (void)print("submitted as job " + clean(id_) + "\n");
        }
        interrupted_ ? cancel() : ask();
    }

    void ask() {
        call("compression.queue.status", {{"job_id", id_}},
             [this](const Result<json::object>& answer) { told(answer); });
    }

    void told(const Result<json::object>& answer) {
        if (ended_) {
            return;
        }
        const Mono now = system_now().mono;
        if (!answer && answer.error().code == Errc::kNotFound) {
            return fail("the engine does not know job " + clean(id_) +
                        " any more. Was it restarted? Nothing half done is left; submit again");
        }
        if (answer) {
            answered_ = now;
            show(job_view(*answer));
        } else if (elapsed(answered_, now) >= kSilenceMax) {
            return fail("what became of job " + clean(id_) + " is not known: " + base_ +
                        " does not answer (" + answer.error().message + ")");
        }
        if (!ended_) {
            timer_.set(now + kAskEvery);
        }
    }

    void show(const JobView& job) {
        if (job.ended()) {
            return end(job);
        }
        if (draws_) {
            (void)print("\r" + progress_bar(job) + "\x1b[K");
            drawn_ = true;
        } else if (milestones_.is_next(job)) {
            (void)print(progress_text(job) + "\n");
        }
    }

    void end(const JobView& job) {
        if (!job.completed()) {
            return fail(end_text(job));
        }
        clear();
        (void)print(end_text(job) + "\n");
        exit_code_ = kExitOk;
        finish();
    }

    /// At Ctrl-C. The end is told by the status, also where the job was faster.
    void interrupt() {
        interrupted_ = true;
        if (!id_.empty()) {
            cancel();
        }
    }

    void cancel() {
        call("compression.queue.cancel", {{"job_id", id_}}, [this](const Result<json::object>&) {
            if (!ended_) {
                ask();
            }
        });
    }

    void fail(const std::string& why) {
        clear();
        complain(why);
        finish();
    }

    void clear() {
        if (drawn_) {
            (void)print("\r\x1b[K");
        }
    }

    void finish() {
        ended_ = true;
        timer_.set(std::nullopt);
        loop_.stop();
    }

    const CompressCommand command_;
    const std::string base_;
    const bool draws_ = can_draw();
    Loop loop_;
    http::Client client_;
    Timer timer_;
    Milestones milestones_;
    std::string id_;
    Mono answered_{};
    bool interrupted_ = false;
    bool drawn_ = false;
    bool ended_ = false;
    int exit_code_ = kExitFailed;
};

}  // namespace

int run_compress(const CompressCommand& command) {
    auto tls = make_tls(command.engine.tls, command.trust);
    if (!tls) {
        complain(tls.error().message);
        return kExitUsage;
    }
    return Compress(command, std::move(*tls)).run();
}

}  // namespace sigmacast::cli
