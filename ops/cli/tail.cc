#include <boost/json.hpp>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/loop.h"
#include "common/random.h"
#include "ops/cli/backoff.h"
#include "ops/cli/commands.h"
#include "ops/cli/instance.h"
#include "ops/cli/output.h"
#include "ops/cli/remote.h"
#include "ops/cli/tail_view.h"
#include "ops/cli/websocket.h"

namespace sigmacast::cli {
namespace {

constexpr Millis kHintMost{
    60'000};  // A server that asks for a longer pause is asked again after this.
constexpr Millis kReachMost{10'000};       // With an end, where no edge was ever reached.
constexpr Millis kPingEvery{2'000};        // Its answer is the bookmark, where no heartbeat comes.
constexpr Millis kGoodbyeTime{200};        // For the close frame to leave.
constexpr std::uint16_t kStopFrom = 4000;  // Close codes 4000 to 4099: stop, and show why.
constexpr std::uint16_t kStopTo = 4099;

constexpr std::uint16_t kAuthenticate = 4300;  // A token is needed.

/// One `sigmacast tail`. After a lost connection it goes on where it was, as far as the log reaches
/// back. Runs on: the loop.
class Tail {
 public:
    Tail(const TailCommand& command, std::shared_ptr<tls::Client> tls)
        : command_(command),
          tls_(std::move(tls)),
          view_(paint_for_stdout(), {.ticks = command.ticks,
                                     .json = command.json,
                                     .everything = command.topics.front() == "*"}),
          random_(Random::from_system()),
          reconnect_(loop_, [this] { connect(); }),
          ping_(loop_, [this] { ping(); }),
          end_(loop_, [this] { finish(reached_ ? kExitOk : kExitFailed); }),
          give_up_(loop_,
                   [this] {
                       if (!reached_) {
                           finish(kExitFailed);
                       }
                   }),
          leave_(loop_, [this] { loop_.stop(); }) {}

    int run() {
        loop_.on_terminate([this] { finish(kExitOk); });
        if (command_.duration) {
            end_.set(system_now().mono + *command_.duration);
        }
        // Who asked for an end waits for one; a live view waits for its edge as long as it takes.
        if (command_.duration || command_.count) {
            give_up_.set(system_now().mono + kReachMost);
        }
        connect();
        loop_.run();
        if (!reached_ && exit_code_ == kExitFailed) {
            const bool distrusted = last_problem_.find("certificate") != std::string::npos;
            complain(refused() + (last_problem_.empty() ? "" : ": " + clean(last_problem_)) +
                     (last_status_ != 0 ? ""
                      : distrusted      ? std::string(kTrustHint)
                                        : std::string(". Is it running? ") + kWhoTells));
        }
        return exit_code_;
    }

 private:
    [[nodiscard]] std::string refused() const {
        return last_status_ != 0 ? command_.url + " refuses" : "cannot reach " + command_.url;
    }

    void connect() {
        if (ending_) {
            return;
        }
        // Read each time: it may have been renewed meanwhile.
        const auto token = read_token(command_.token_file, std::getenv("SIGMACAST_TOKEN"));
        if (!token) {
            complain(token.error().message);
            return finish(kExitUsage);
        }
        sent_token_ = !token->empty();
        WebSocket::Handlers handlers;
        handlers.on_open = [this] { subscribe(); };
        handlers.on_text = [this](std::string_view text) { on_text(text); };
        handlers.on_closed = [this](const WebSocket::Closed& closed) { on_closed(closed); };
        socket_ =
            std::make_unique<WebSocket>(loop_, command_.server, *token, tls_, std::move(handlers));
    }

    void subscribe() {
        reached_ = true;
        boost::json::array types(command_.topics.begin(), command_.topics.end());
        boost::json::object data{{"types", std::move(types)}};
        if (auto resume = view_.cursor().resume()) {
            data["resume"] = std::move(*resume);
        }
        socket_->send(boost::json::serialize(
            boost::json::value{{"type", "subscribe"}, {"id", 1}, {"data", std::move(data)}}));
        ping_.set(system_now().mono + kPingEvery);
    }

    void ping() {
        socket_->send(R"({"type":"ping"})");
        ping_.set(system_now().mono + kPingEvery);
    }

    void on_text(std::string_view text) {
        const TailLine line = view_.on_message(text, system_now().wall);
        if (view_.greeted()) {
            greeted_before_ = true;
            backoff_.reset();
        }
        if (line.text && !print(*line.text + "\n")) {
            return finish(kExitOk);  // Whoever read this has had enough.
        }
        if (line.counts && line.text && command_.count && ++shown_ >= *command_.count) {
            finish(kExitOk);
        }
    }

    void on_closed(const WebSocket::Closed& closed) {
        ping_.set(std::nullopt);
        view_.on_disconnect();
        last_problem_ = closed.why;
        last_status_ = closed.status;
        if (closed.code >= kStopFrom && closed.code <= kStopTo) {
            complain(command_.url + " refused for good: " + clean(closed.why) + " (" +
                     std::to_string(closed.code) + ")");
            return finish(kExitFailed);
        }
        const int status = closed.code == kAuthenticate ? 401 : closed.status;
        if (const std::string problem = token_problem(status, sent_token_);
            !problem.empty() && !greeted_before_) {
            reached_ = true;
            complain(command_.url + ": " + problem);
            return finish(kExitFailed);
        }
        Millis wait = backoff_.next(random_);
        const auto hint = view_.take_reconnect_hint();
        if (const auto asked = hint ? hint : closed.retry_after) {
            wait = std::min(*asked, kHintMost) + random_.upto(Millis{250});
        }
        const std::string what = reached_ && last_status_ == 0 ? "lost " + command_.url : refused();
        remark(local_clock(system_now().wall) + "  " + what + ": " + clean(closed.why) +
               "; next try in " + age_text(wait));
        reconnect_.set(system_now().mono + wait);
    }

    void finish(int code) {
        if (ending_) {
            return;
        }
        ending_ = true;
        exit_code_ = code;
        reconnect_.set(std::nullopt);
        ping_.set(std::nullopt);
        if (socket_) {
            socket_->close();
        }
        leave_.set(system_now().mono + kGoodbyeTime);
    }

    const TailCommand& command_;
    const std::shared_ptr<tls::Client> tls_;  // Null: plain.
    Loop loop_;
    TailView view_;
    Random random_;
    Backoff backoff_;
    Timer reconnect_;
    Timer ping_;
    Timer end_;
    Timer give_up_;
    Timer leave_;
    std::unique_ptr<WebSocket> socket_;
    std::string last_problem_;
    int last_status_ = 0;  // Of HTTP.
    std::uint64_t shown_ = 0;
    bool reached_ = false;
    bool sent_token_ = false;
    bool greeted_before_ = false;
    bool ending_ = false;
    int exit_code_ = kExitOk;
};

}  // namespace

int run_tail(const TailCommand& given) {
    TailCommand command = given;
    if (!command.named) {
        const auto instance = instance_of(command.data);
        if (!instance) {
            complain(instance.error().message);
            return kExitUsage;
        }
        if (*instance) {
            const std::string at =
                edge_authority((*instance)->edge_host, (*instance)->edges.front());
            const auto server = parse_endpoint(at, "ws", "/ws");
            if (!server) {
                complain(server.error().message);
                return kExitUsage;
            }
            command.server = *server;
            command.server.tls = believe(**instance, command.trust);
            command.url = (command.server.tls ? "wss://" : "ws://") + at + "/ws";
        }
    }
    auto tls = make_tls(command.server.tls, command.trust);
    if (!tls) {
        complain(tls.error().message);
        return kExitUsage;
    }
    return Tail(command, std::move(*tls)).run();
}

}  // namespace sigmacast::cli
