// sigmacast-edge: joins the broker's feed and fans it out to browsers. With several io threads each
// is an edge of its own on the one port, with a feed, a cache and clients (common/DECISIONS.md,
// 13).
#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/bus.h"
#include "common/bus_gate.h"
#include "common/curve.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/program.h"
#include "common/tls.h"
#include "edge/access.h"
#include "edge/hub.h"
#include "edge/occupancy.h"
#include "edge/rest.h"
#include "edge/sse.h"
#include "edge/upstream.h"
#include "edge/wire.h"

namespace sigmacast::edge {
namespace {

constexpr std::size_t kFeed = 0;
constexpr std::size_t kRepair = 1;
constexpr std::size_t kRequestBodyMax = 4u << 10;  // No request has a use for a body.
constexpr Millis kDrainRest{1'300};                // For who was told last to close, too.
constexpr Millis kDrainCheck{20};
constexpr Millis kMetricsInterval{1'000};

/// Everything, or each topic with its NUL (ZeroMQ matches by prefix), reports and heads.
std::vector<std::string> subscriptions(const std::vector<std::string>& topics) {
    if (topics.empty()) {
        return {""};
    }
    std::vector<std::string> prefixes{report_topic(""), std::string("head\0", 5)};
    for (const std::string& topic : topics) {
        prefixes.push_back(topic + '\0');
    }
    return prefixes;
}

/// What one thread has to itself.
struct Parts {
    bus::Curve curve;
    std::unique_ptr<Access> access;
    std::shared_ptr<SendBatch> send_batch;  // Null: none.
};

/// What all threads have together.
struct Shared {
    Metrics metrics;
    std::shared_ptr<Occupancy> occupancy = std::make_shared<Occupancy>();
    std::shared_ptr<tls::Server> tls = nullptr;  // Null: plain.
};

/// One io thread.
class Edge {
 public:
    /// `number`: from 0 on. `port`: which the first one listens on.
    Edge(const Settings& settings, Shared& shared, unsigned number, std::uint16_t port, Parts parts)
        : settings_(settings),
          shared_(shared),
          number_(number),
          access_(std::move(parts.access)),
          upstream_(Random::from_system(), settings.edge.topics),
          hub_({.legacy_origin = settings.edge.legacy_origin,
                .topics = settings.edge.topics,
                .heartbeat_interval = settings.edge.heartbeat_interval,
                .queue = {.bytes_max = settings.edge.client_queue_bytes_max,
                          .control_bytes_max = settings.edge.client_answer_bytes_max},
                .verify = verify(),
                .first_message_timeout = settings.auth.first_message_timeout,
                .messages_per_second = settings.edge.client_messages_per_second,
                .subscriptions_max = settings.edge.client_subscriptions_max,
                .clients_per_user_max = settings.edge.clients_per_user_max,
                .wake = [this] { timer_.set(system_now().mono); },
                .occupancy = shared.occupancy},
               Random::from_system()),
          wire_(loop_, hub_,
                {.clients_max = settings.edge.clients_max,
                 .message_bytes_max = settings.edge.client_message_bytes_max,
                 .ping_interval = settings.edge.ping_interval,
                 .pong_timeout = settings.edge.pong_timeout,
                 .cors_origins = settings.edge.cors_origins,
                 .access = access_.get(),
                 .waiting_max = settings.edge.clients_waiting_max,
                 .clients_per_address_max = settings.edge.clients_per_address_max,
                 .write_timeout = settings.edge.write_timeout,
                 .batch = std::move(parts.send_batch),
                 .batch_min = settings.edge.io_uring == "on" ? 1u : WireOptions().batch_min,
                 .compression = settings.edge.compression,
                 .flush_interval = settings.edge.flush_interval,
                 .before_input = [this](Now now) { catch_up(now); }},
                Random::from_system()),
          rest_({hub_, upstream_, wire_, *access_, http_counters_, shared.metrics,
                 system_now().mono, shared.tls.get(), labels(), number == 0}),
          timer_(loop_, [this] { on_timer(); }),
          drain_timer_(loop_, [this] { check_drained(); }),
          metrics_timer_(loop_, [this] { update_metrics(); }),
          bus_(
              loop_,
              {{.type = bus::SocketType::kSub,
                .endpoint = settings.broker.feed,
                .subscribe = subscriptions(settings.edge.topics)},
               {.type = bus::SocketType::kDealer, .endpoint = settings.broker.repair}},
              [this](std::vector<bus::Incoming> batch) { on_batch(std::move(batch)); },
              std::move(parts.curve)),
          server_(
              loop_,
              {.host = settings.edge.host,
               .port = port,
               .body_bytes_max = kRequestBodyMax,
               .idle_max = settings.edge.handshake_timeout,
               .origins = settings.edge.cors_origins,
               .tls = shared.tls,
               .header_bytes_max = settings.edge.header_bytes_max,
               .connections_per_address_max = settings.edge.clients_per_address_max,
               .addresses = shared.occupancy->connections,
               .port_use = !several()    ? http::PortUse::kAlone
                           : number == 0 ? http::PortUse::kFirst
                                         : http::PortUse::kAlso,
               .counters = &http_counters_,
               .streams = {std::string(kEventsPath), std::string(kEventsPath) + '/'}},
              [this](const http::Request& request, http::Server::Respond respond) {
                  const Now now = system_now();
                  catch_up(now);
                  respond(rest_.answer(request, now));
              },
              [this](http::Upgrade& upgrade) { return wire_.accept(upgrade); }) {}

    /// It listens, and asks the broker.
    Result<> start() {
        if (const auto listening = server_.start(); !listening) {
            return listening.error();
        }
        if (const auto connected = bus_.start(); !connected) {
            return connected.error();
        }
        if (number_ == 0) {
            loop_.on_hangup([this] { reload(); });
        }
        loop_.on_terminate([this] { drain(); });
        return {};
    }

    /// Of all threads.
    void tell_start() const {
        log_info("edge started", {{"host", settings_.edge.host},
                                  {"port", server_.port()},
                                  {"tls", shared_.tls != nullptr},
                                  {"tokens", access_->required() ? "required" : "not looked at"},
                                  {"io_threads", settings_.edge.io_threads},
                                  {"io_uring", wire_.options().batch != nullptr},
                                  {"feed", settings_.broker.feed}});
    }

    /// Until it has drained.
    void run() {
        log_thread(number_);
        const Now now = system_now();
        handle(upstream_.start(now), now);
        if (several()) {
            update_metrics();
        }
        loop_.run();
        bus_.stop();
    }

    /// From any thread: run() returns, drained or not.
    void stop() { loop_.stop(); }

    [[nodiscard]] std::uint16_t port() const { return server_.port(); }

 private:
    [[nodiscard]] bool several() const { return settings_.edge.io_threads > 1; }

    [[nodiscard]] Labels labels() const {
        return several() ? Labels{{"thread", std::to_string(number_)}} : Labels{};
    }

    /// Whichever thread is asked answers for all, who therefore tell it before.
    void update_metrics() {
        const Now now = system_now();
        rest_.update_metrics(now);
        metrics_timer_.set(now.mono + kMetricsInterval);
    }

    std::function<Result<Grant>(std::string_view, Wall)> verify() const {
        if (!access_->required()) {
            return nullptr;
        }
        return [access = access_.get()](std::string_view token, Wall now) {
            return access->verify(token, now);
        };
    }

    void on_batch(std::vector<bus::Incoming> batch) {
        const Now now = system_now();
        // After a freeze what waited is no sign of life: else it would be told as live first.
        const bool alive = std::any_of(batch.begin(), batch.end(), [&](const bus::Incoming& each) {
            return each.socket == kFeed && elapsed(each.sent, now.mono) < Upstream::kUplinkSilence;
        });
        if (!alive) {
            catch_up(now);
        }
        for (const bus::Incoming& incoming : batch) {
            const Now sent{incoming.sent, now.wall};
            if (incoming.socket == kFeed) {
                auto message = decode(incoming.frames, sent);
                if (message) {
                    apply(upstream_.on_message(std::move(*message), now, incoming.sent), now);
                } else {
                    undecodable(message.error());
                }
            } else if (incoming.socket == kRepair) {
                auto reply = protocol::decode(incoming.frames, sent);
                if (reply && std::holds_alternative<protocol::Refused>(*reply)) {
                    refused(std::get<protocol::Refused>(*reply), now);
                } else if (reply) {
                    apply(upstream_.on_reply(std::move(*reply), now), now);
                } else {
                    undecodable(reply.error());
                }
            }
        }
        finish(now);
    }

    void on_timer() {
        const Now now = system_now();
        handle(upstream_.on_timer(now), now);
    }

    /// After a freeze, what clients sent meanwhile may come before the timer: no answer may rest on
    /// a head from before it.
    void catch_up(Now now) {
        const auto due = upstream_.deadline();
        if (due && *due <= now.mono) {
            handle(upstream_.on_timer(now), now);
        }
    }

    void handle(Upstream::Output output, Now now) {
        apply(std::move(output), now);
        finish(now);
    }

    void apply(Upstream::Output output, Now now) {
        for (const protocol::Any& request : output.requests) {
            bus_.send(kRepair, protocol::encode(request, now.mono));
        }
        for (const Upstream::Step& step : output.steps) {
            log_step(step);
        }
        hub_.apply(std::move(output.steps), now);
    }

    /// Once a batch: what fell due meanwhile, one flush a client, the next timer.
    void finish(Now now) {
        if (hub_.deadline() <= now.mono) {
            hub_.on_timer(now);
        }
        for (const protocol::Any& request : hub_.take_requests()) {
            bus_.send(kRepair, protocol::encode(request, now.mono));
        }
        wire_.flush();
        const auto upstream = upstream_.deadline();
        timer_.set(upstream && *upstream < hub_.deadline() ? *upstream : hub_.deadline());
    }

    void log_step(const Upstream::Step& step) {
        if (const auto* uplink = std::get_if<Upstream::UplinkChange>(&step)) {
            if (uplink->up) {
                log_info("uplink up", {{"pos", hub_.cache().pos()}});
            } else {
                log_warn(
                    "uplink down: no head of the broker, or no repair; values are told as stale",
                    {{"feed", settings_.broker.feed}, {"pos", hub_.cache().pos()}});
            }
        } else if (const auto* snapshot = std::get_if<protocol::Snapshot>(&step)) {
            log_info("snapshot applied", {{"epoch", snapshot->epoch},
                                          {"pos", snapshot->pos},
                                          {"values", snapshot->values.size()}});
            if (snapshot->unreadable > 0) {
                log_warn("rows of the snapshot could not be read; these values are not served",
                         {{"rows", snapshot->unreadable}, {"pos", snapshot->pos}});
            }
        } else if (const auto* lost = std::get_if<Upstream::Lost>(&step)) {
            log_warn("positions lost", {{"topic", lost->topic},
                                        {"origin", lost->origin},
                                        {"from", lost->range.from},
                                        {"to", lost->range.to}});
        }
    }

    void refused(const protocol::Refused& refused, Now now) {
        if (refused_lines_.pass(now.mono)) {
            log_error("the broker refuses what this edge asks", {{"why", refused.why}});
        }
    }

    void undecodable(const Error& error) {
        shared_.metrics
            .counter("sigmacast_edge_undecodable_total", "Bus messages that were not understood",
                     labels())
            .add();
        if (!undecodable_logged_) {
            undecodable_logged_ = true;  // Later ones are counted.
            log_warn("a bus message was not understood; later ones are only counted",
                     {{"error", error.message}});
        }
    }

    void reload() {
        if (!shared_.tls) {
            return log_info("SIGHUP: no certificate is configured, nothing is read again");
        }
        if (const auto read = shared_.tls->reload(); !read) {
            return log_error("certificate not reloaded, the old one goes on serving",
                             {{"why", "edge." + read.error().message}});
        }
        log_info("certificate reloaded, for new connections",
                 {{"expires", to_rfc3339(shared_.tls->expires())}});
        if (const std::string warning = shared_.tls->warning(system_now().wall); !warning.empty()) {
            log_warn(warning);
        }
    }

    /// Not ready at once; after drain_notice nobody new is let in, and the clients are told, one
    /// after the other, within drain_time of the signal. It listens until the end, so that who
    /// comes too early is answered and not refused.
    void drain() {
        const Now now = system_now();
        const EdgeSettings& edge = settings_.edge;
        // A second for each thousand clients is gentle enough.
        const std::size_t clients = shared_.occupancy->clients;
        const Millis gentle = Hub::kReconnectHintEach * static_cast<int>(clients);
        const Millis over = std::clamp(edge.drain_time - edge.drain_notice, Millis{0}, gentle);
        log_info("draining", {{"clients", wire_.clients()},
                              {"notice", format_duration(edge.drain_notice)},
                              {"over", format_duration(over)}});
        drain_by_ = now.mono + edge.drain_notice + over + kDrainRest;
        hub_.drain(now.mono + edge.drain_notice, over, now);
        finish(now);
        rest_.update_metrics(now);
        check_drained();
    }

    void check_drained() {
        const Mono now = system_now().mono;
        if (shared_.occupancy->clients == 0 || now >= drain_by_) {  // All threads together.
            rest_.update_metrics(system_now());
            server_.stop();
            wire_.abort_all();
            loop_.stop();
            return;
        }
        drain_timer_.set(now + kDrainCheck);
    }

    const Settings& settings_;
    Shared& shared_;
    const unsigned number_;
    const std::unique_ptr<Access> access_;
    Loop loop_;
    Upstream upstream_;
    Hub hub_;
    Wire wire_;
    http::ServerCounters http_counters_;
    Rest rest_;
    Timer timer_;
    Timer drain_timer_;
    Timer metrics_timer_;
    bus::Node bus_;
    bus::LogLimit refused_lines_{1};
    http::Server server_;
    Mono drain_by_{};
    bool undecodable_logged_ = false;
};

/// Null where TLS is not configured; by half, the settings have refused it.
Result<std::shared_ptr<tls::Server>> make_tls(const EdgeSettings& edge) {
    if (edge.tls_certificate.empty()) {
        return std::shared_ptr<tls::Server>();
    }
    auto made = tls::Server::make(edge.tls_certificate, edge.tls_key);
    if (!made) {
        return Error{made.error().code, "edge." + made.error().message};
    }
    return made;
}

/// Null where it is not wanted, or not to be had; the first thread says so.
Result<std::shared_ptr<SendBatch>> make_batch(const EdgeSettings& edge, bool first) {
    if (edge.io_uring == "off") {
        return std::shared_ptr<SendBatch>();
    }
    auto made = SendBatch::make();
    if (made) {
        return std::shared_ptr<SendBatch>(std::move(*made));
    }
    if (edge.io_uring == "on") {
        return Error{made.error().code, "edge.io_uring is \"on\": " + made.error().message +
                                            "; with \"auto\" it does without"};
    }
    if (first) {
        log_info("no io_uring: each client is sent to by a system call of its own",
                 {{"why", made.error().message}});
    }
    return std::shared_ptr<SendBatch>();
}

/// Of one thread. `exit_status`: of the process, where this fails.
Result<Parts> make_parts(const Settings& settings, bool first, int& exit_status) {
    exit_status = kExitUsage;
    auto access = Access::make(settings.auth);
    if (!access) {
        return access.error();
    }
    auto curve = read_curve(settings, CurveRole::kEdge);
    if (!curve) {
        return curve.error();
    }
    exit_status = kExitFailed;
    auto batch = make_batch(settings.edge, first);
    if (!batch) {
        return batch.error();
    }
    return Parts{std::move(*curve), std::move(*access), std::move(*batch)};
}

/// Each on a thread, the first one on this. False: a problem has ended one, and so all.
bool run_all(const std::vector<std::unique_ptr<Edge>>& edges) {
    std::atomic<bool> good{true};
    const auto end_all = [&](const std::exception& problem) {
        log_error("ended by a problem", {{"what", std::string(problem.what())}});
        good = false;
        for (const auto& edge : edges) {
            edge->stop();
        }
    };
    const auto run = [&](Edge& edge) {
        try {
            edge.run();
        } catch (const std::exception& problem) {
            end_all(problem);
        }
    };
    std::vector<std::thread> others;
    try {
        for (std::size_t i = 1; i < edges.size(); ++i) {
            others.emplace_back(run, std::ref(*edges[i]));
        }
    } catch (const std::system_error& problem) {
        end_all(std::runtime_error("no io thread: " + std::string(problem.what()) +
                                   " (ulimit -u, or pids.max of its group)"));
    }
    if (good) {
        edges.front()->tell_start();
    }
    run(*edges.front());
    for (std::thread& other : others) {
        other.join();
    }
    return good;
}

/// Where it may listen, the settings have checked.
int run_edge(const Settings& settings) {
    Shared shared;
    auto tls = make_tls(settings.edge);
    if (!tls) {
        log_error(tls.error().message);
        return kExitUsage;
    }
    shared.tls = std::move(*tls);
    std::vector<std::unique_ptr<Edge>> edges;
    for (unsigned number = 0; number < settings.edge.io_threads; ++number) {
        int exit_status = kExitOk;
        auto parts = make_parts(settings, number == 0, exit_status);
        if (!parts) {
            log_error(parts.error().message);
            return exit_status;
        }
        edges.push_back(std::make_unique<Edge>(
            settings, shared, number, edges.empty() ? settings.edge.port : edges.front()->port(),
            std::move(*parts)));
        if (const auto started = edges.back()->start(); !started) {
            log_error(started.error().message);
            return kExitFailed;
        }
    }
    const bool good = run_all(edges);
    log_info("edge stopped");
    return good ? kExitOk : kExitFailed;
}

/// Whether the keys can be used: the settings cannot tell.
Result<> check(const Settings& settings) {
    if (const auto access = Access::make(settings.auth); !access) {
        return access.error();
    }
    if (const auto curve = read_curve(settings, CurveRole::kEdge); !curve) {
        return curve.error();
    }
    const auto tls = make_tls(settings.edge);
    return tls ? Result<>() : Result<>(tls.error());
}

void remark(const Settings& settings, std::vector<std::string>& notes) {
    const auto tls = make_tls(settings.edge);
    const std::string warning = tls && *tls ? (*tls)->warning(system_now().wall) : "";
    if (!warning.empty()) {
        notes.push_back("edge.tls_certificate: " + warning);
    }
}

}  // namespace
}  // namespace sigmacast::edge

int main(int argc, char** argv) {
    std::optional<std::string> host;
    std::optional<std::uint16_t> port;
    const sigmacast::ProgramInfo info{
        .name = "sigmacast-edge",
        .summary = "Joins the broker's feed and fans it out to browsers over WebSocket.",
        .options = {{"--host", "Address to listen on", &host},
                    {"--port", "Port to listen on", &port}},
        .apply =
            [&](sigmacast::Settings& settings) {
                settings.edge.host = host.value_or(settings.edge.host);
                settings.edge.port = port.value_or(settings.edge.port);
            },
        .check = sigmacast::edge::check,
        .remark = sigmacast::edge::remark};
    return sigmacast::run_program(argc, argv, info, sigmacast::edge::run_edge);
}
