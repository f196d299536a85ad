// sigmacast-producer: asks the engine and publishes what it says. All that decides is in core.h;
// here it is given sockets, a clock and a folder.
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/admin.h"
#include "common/bus.h"
#include "common/bus_gate.h"
#include "common/curve.h"
#include "common/http.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/program.h"
#include "common/random.h"
#include "common/state_file.h"
#include "producer/core.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

constexpr std::size_t kIngest = 0;  // Indices of the bus's sockets.
constexpr std::size_t kRepair = 1;

/// What survives a restart, and the lock that keeps a second producer away from it.
struct Identity {
    FileLock lock;
    std::string origin;
    std::uint64_t epoch = 0;
    std::string epoch_path;
};

Result<Identity> take_identity(const Settings& settings) {
    std::error_code failed;
    std::filesystem::create_directories(settings.data_dir, failed);
    if (failed) {
        return Error{Errc::kUnavailable, "cannot create the data folder " + settings.data_dir +
                                             ": " + failed.message()};
    }
    const std::string base = settings.data_dir + "/producer.";
    Result<FileLock> lock = FileLock::take(base + "lock");
    if (!lock) {
        return lock.error().within("another producer uses the data folder");
    }
    const Result<std::string> origin = origin_name(base + "origin", settings.producer.origin);
    if (!origin) {
        return origin.error();
    }
    const Result<> usable = check_name("the origin", *origin);
    if (!usable) {
        return usable.error();
    }
    const Result<std::uint64_t> epoch = next_epoch(base + "epoch", system_now().wall);
    if (!epoch) {
        return epoch.error();
    }
    return Identity{std::move(*lock), *origin, *epoch, base + "epoch"};
}

json::value time_or_null(const std::optional<Now>& time) {
    return time ? json::value(to_rfc3339(time->wall)) : json::value();
}

json::array breakers_json(const Producer& producer) {
    json::array list;
    for (const Breaker* breaker : producer.breakers()) {
        list.push_back({{"name", breaker->name()},
                        {"state", to_string(breaker->state())},
                        {"consecutive_failures", breaker->failures()},
                        {"opened_at", time_or_null(breaker->opened_at())},
                        {"retry_at", time_or_null(breaker->retry_at())},
                        {"last_error", breaker->last_error()}});
    }
    return list;
}

json::array polls_json(const Producer& producer) {
    json::array list;
    for (const PollStatus& poll : producer.polls()) {
        list.push_back(
            {{"name", poll.name},
             {"topic", poll.topic},
             {"ended_once", poll.ended_once},
             {"ok", poll.ok},
             {"unsupported", poll.unsupported},
             {"code", poll.code},
             {"message", poll.message},
             {"failures", poll.failures},
             {"as_of", poll.as_of ? json::value(to_rfc3339(poll.as_of->wall)) : json::value()}});
    }
    return list;
}

std::string_view state_name(Origin::State state) {
    switch (state) {
        case Origin::State::kJoining:
            return "joining";
        case Origin::State::kJoined:
            return "joined";
        case Origin::State::kConflict:
            break;
    }
    return "conflict";
}

/// The process: sockets, timers and metrics around a Producer. Runs on: the loop.
class Program final : public Producer::Io {
 public:
    Program(const Settings& settings, bus::Curve curve, Identity identity)
        : settings_(settings.producer),
          identity_(std::move(identity)),
          client_(loop_, settings_.engine_url, {.body_bytes_max = settings_.reply_bytes_max}),
          bus_(
              loop_, sockets(settings),
              [this](std::vector<bus::Incoming> batch) { on_bus(std::move(batch)); },
              std::move(curve)),
          timer_(loop_, [this] { on_timer(); }),
          admin_(
              loop_, settings_.admin_port, metrics_, [this] { return readiness(); },
              [this] { set_gauges(); }) {
        Random random = Random::from_system();
        ProducerOptions options{settings_, identity_.origin, random.hex(8), identity_.epoch};
        producer_ = std::make_unique<Producer>(std::move(options), *this, random);
    }

    int run() {
        for (const Result<>& started : {admin_.start(), bus_.start()}) {
            if (!started) {
                log_error("cannot start", {{"error", started.error().message}});
                return kExitFailed;
            }
        }
        loop_.on_terminate([this] { loop_.stop(); });
        loop_.post([this] {
            log_info("started", {{"origin", identity_.origin},
                                 {"epoch", identity_.epoch},
                                 {"engine", settings_.engine_url},
                                 {"polls", settings_.polls.size()},
                                 {"admin_port", admin_.port()}});
            producer_->start(system_now());
            set_timer();
        });
        loop_.run();
        stopping_ = true;
        bus_.stop();
        log_info("stopped");
        return kExitOk;
    }

 private:
    static std::vector<bus::SocketOptions> sockets(const Settings& settings) {
        bus::SocketOptions ingest;
        ingest.type = bus::SocketType::kPub;
        ingest.endpoint = settings.broker.ingest;
        bus::SocketOptions repair;
        repair.type = bus::SocketType::kDealer;
        repair.endpoint = settings.broker.repair;
        return {std::move(ingest), std::move(repair)};
    }

    void call(Call call) override {
        client_.request("POST", "/rpc", std::move(call.body), call.deadline,
                        [this, id = call.id](Result<http::Response> reply) {
                            if (stopping_) {
                                return;
                            }
                            producer_->on_reply(id, reply, system_now());
                            set_timer();
                        });
    }

    void publish(Message message) override {
        published_.add();
        const Mono now = BootClock::now();
        if (!bus_.send(kIngest, encode(message, now), now)) {
            dropped_.add();  // The broker finds the gap and asks.
        }
    }

    void send(protocol::Any message) override {
        const Mono now = BootClock::now();
        if (!bus_.send(kRepair, protocol::encode(message, now), now)) {
            dropped_.add();
        }
    }

    Result<> save_epoch(std::uint64_t epoch) override {
        return write_file_durably(identity_.epoch_path, std::to_string(epoch) + "\n");
    }

    void on_poll_ended(const std::string& poll, std::string_view result, Millis latency) override {
        const Labels labels{{"poll", poll}, {"result", std::string(result)}};
        metrics_.counter("sigmacast_polls_total", "Calls to the engine that have ended", labels)
            .add();
        metrics_
            .counter("sigmacast_poll_seconds_total", "Time that calls to the engine took", labels)
            .add(static_cast<double>(latency.count()) / 1000.0);
        metrics_
            .gauge("sigmacast_poll_last_seconds", "Time that the newest call of a poll took",
                   {{"poll", poll}})
            .set(static_cast<double>(latency.count()) / 1000.0);
    }

    void on_bus(std::vector<bus::Incoming> batch) {
        for (const bus::Incoming& incoming : batch) {
            const Now now = system_now();
            const Result<protocol::Any> message =
                protocol::decode(incoming.frames, {incoming.sent, now.wall});
            if (message && std::holds_alternative<protocol::Refused>(*message)) {
                refused(std::get<protocol::Refused>(*message), now);
            } else if (message) {
                producer_->on_protocol(*message, now);
            } else {
                undecodable_.add();
                log_debug("a message from the broker cannot be read",
                          {{"error", message.error().message}});
            }
        }
        set_timer();
    }

    void refused(const protocol::Refused& refused, Now now) {
        if (refused_lines_.pass(now.mono)) {
            log_error("the broker refuses what this producer publishes",
                      {{"why", refused.why}, {"origin", identity_.origin}});
        }
    }

    void on_timer() {
        producer_->on_timer(system_now());
        set_timer();
    }

    void set_timer() {
        const Mono when = producer_->deadline();
        timer_.set(when == Mono::max() ? std::nullopt : std::optional<Mono>(when));
    }

    Readiness readiness() {
        const Origin& origin = producer_->origin();
        const bool ready = producer_->ready();
        json::object status{{"ready", ready},
                            {"origin", origin.name()},
                            {"epoch", origin.epoch()},
                            {"state", state_name(origin.state())},
                            {"engine_url", settings_.engine_url},
                            {"breakers", breakers_json(*producer_)},
                            {"polls", polls_json(*producer_)}};
        if (origin.state() == Origin::State::kConflict) {
            status["error"] = "origin_conflict";
        }
        return {.ready = ready, .json = json::serialize(status)};
    }

    void set_gauges() {
        const Origin& origin = producer_->origin();
        ring_bytes_.set(static_cast<double>(origin.ring_bytes()));
        undurable_.set(static_cast<double>(origin.undurable()));
        asks_.set(static_cast<double>(origin.asks_answered()));
        handshakes_failed_.add(static_cast<double>(bus_.handshakes_failed()) -
                               handshakes_failed_.value());
        joined_.set(origin.state() == Origin::State::kJoined ? 1 : 0);
        for (const Breaker* breaker : producer_->breakers()) {
            metrics_
                .gauge("sigmacast_breaker_open", "0 closed, 1 open, 0.5 half-open",
                       {{"breaker", breaker->name()}})
                .set(breaker->state() == BreakerState::kClosed ? 0.0
                     : breaker->state() == BreakerState::kOpen ? 1.0
                                                               : 0.5);
        }
    }

    ProducerSettings settings_;
    Identity identity_;
    Metrics metrics_;
    Counter& published_ =
        metrics_.counter("sigmacast_published_total", "Messages given to the bus");
    Counter& dropped_ = metrics_.counter("sigmacast_bus_dropped_total",
                                         "Messages that the bus had no room for; repaired later");
    Counter& undecodable_ = metrics_.counter("sigmacast_undecodable_total",
                                             "Messages from the broker that could not be read");
    Counter& handshakes_failed_ = metrics_.counter(
        "sigmacast_handshakes_failed_total", "Connections to the broker that did not come about");
    Gauge& ring_bytes_ = metrics_.gauge("sigmacast_ring_bytes", "Kept for the broker to ask again");
    Gauge& undurable_ =
        metrics_.gauge("sigmacast_undurable", "Positions that the broker has not made durable");
    Gauge& asks_ = metrics_.gauge("sigmacast_asks_answered", "Ranges that the broker asked for");
    Gauge& joined_ = metrics_.gauge("sigmacast_joined", "1 while the broker knows this producer");
    Loop loop_;
    http::Client client_;
    bus::Node bus_;
    bus::LogLimit refused_lines_{1};
    Timer timer_;
    Admin admin_;
    std::unique_ptr<Producer> producer_;
    bool stopping_ = false;
};

int run(const Settings& settings) {
    Result<bus::Curve> curve = read_curve(settings, CurveRole::kProducer);
    if (!curve) {
        log_error("cannot start", {{"error", curve.error().message}});
        return kExitFailed;
    }
    Result<Identity> identity = take_identity(settings);
    if (!identity) {
        log_error("cannot start", {{"error", identity.error().message}});
        return kExitFailed;
    }
    return Program(settings, std::move(*curve), std::move(*identity)).run();
}

Result<> check(const Settings& settings) {
    const auto curve = read_curve(settings, CurveRole::kProducer);
    return curve ? Result<>() : Result<>(curve.error());
}

}  // namespace
}  // namespace sigmacast::producer

int main(int argc, char** argv) {
    std::optional<std::string> engine;
    std::optional<std::string> origin;
    std::optional<std::uint16_t> admin_port;
    const sigmacast::ProgramInfo info{
        .name = "sigmacast-producer",
        .summary = "Asks a JSON-RPC engine and publishes what it says, with its age.",
        .options = {{"--engine", "Base URL of the engine", &engine},
                    {"--origin", "Name of this producer", &origin},
                    {"--admin-port", "Port of /readyz and /metrics", &admin_port}},
        .apply =
            [&](sigmacast::Settings& settings) {
                if (engine) {
                    settings.producer.engine_url = sigmacast::engine_base(*engine);
                }
                settings.producer.origin = origin.value_or(settings.producer.origin);
                settings.producer.admin_port = admin_port.value_or(settings.producer.admin_port);
            },
        .check = sigmacast::producer::check};
    return sigmacast::run_program(argc, argv, info, sigmacast::producer::run);
}
