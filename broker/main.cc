// sigmacast-broker: sockets, clock, database and admin endpoint around the core in broker.h.
// Decides nothing.
#include <boost/json.hpp>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "broker/broker.h"
#include "broker/permissions.h"
#include "common/admin.h"
#include "common/bus.h"
#include "common/curve.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/program.h"
#include "common/state_file.h"
#include "storage/reader.h"
#include "storage/salvage.h"
#include "storage/writer.h"

namespace sigmacast {
namespace {

/// A clean stop waits this long for what is pending to be committed.
constexpr Millis kStopMax{5000};
/// Messages that are handed over at once, so that heads go out between.
constexpr std::size_t kTurnMax = 512;

enum Socket : std::size_t { kIngest = 0, kFeed = 1, kRepair = 2 };

std::string database_path(const Settings& settings) {
    if (!settings.broker.database.empty()) {
        return settings.broker.database;
    }
    return (std::filesystem::path(settings.data_dir) / "sigmacast.db").string();
}

std::vector<bus::SocketOptions> socket_options(const BrokerSettings& settings) {
    std::vector<bus::SocketOptions> sockets(3);
    sockets[kIngest].type = bus::SocketType::kSub;
    sockets[kIngest].endpoint = settings.ingest;
    sockets[kIngest].subscribe = {""};
    sockets[kIngest].rights = bus::kPublish;
    sockets[kFeed].type = bus::SocketType::kXpub;
    sockets[kFeed].endpoint = settings.feed;
    sockets[kFeed].rights = bus::kRead;
    sockets[kRepair].type = bus::SocketType::kRouter;
    sockets[kRepair].endpoint = settings.repair;
    sockets[kRepair].rights = bus::kPublish | bus::kRead;  // Permissions tell the two apart.
    for (bus::SocketOptions& socket : sockets) {
        socket.bind = true;
    }
    return sockets;
}

/// Counters that live in the cores as plain numbers, brought up to date before each /metrics.
class BrokerMetrics {
 public:
    explicit BrokerMetrics(Metrics& metrics) : metrics_(metrics) {}

    void on_commit(const storage::CommitOutcome& outcome) {
        const double seconds = static_cast<double>(outcome.took.count()) / 1e6;
        metrics_.counter("sigmacast_broker_commit_seconds_total", "Time spent in commits")
            .add(seconds);
        metrics_.gauge("sigmacast_broker_commit_seconds", "How long the last commit took")
            .set(seconds);
    }

    void update(const broker::Broker& broker, const storage::Writer& writer, const bus::Node& node,
                const broker::Permissions& permissions, bool damaged) {
        const auto& counts = broker.counts();
        const auto& ingest = broker.ingest_counts();
        raise("sigmacast_broker_received_total", "Messages from producers", counts.received);
        raise("sigmacast_broker_unreadable_total", "Messages that could not be read",
              counts.unreadable);
        raise("sigmacast_broker_dropped_total",
              "Messages of another epoch or origin, or over a limit", ingest.dropped);
        raise("sigmacast_broker_committed_total", "Rows committed to the log", counts.committed);
        raise("sigmacast_broker_published_total", "Messages published to the edges",
              counts.published);
        raise("sigmacast_broker_batches_total", "Transactions", counts.batches);
        raise("sigmacast_broker_refused_batches_total", "Transactions that the database refused",
              counts.refused);
        raise("sigmacast_broker_refused_values_total",
              "Values beyond the bounds of live state; gaps took their place",
              counts.refused_values);
        raise("sigmacast_broker_left_out_total", "Values without room in a snapshot",
              counts.left_out);
        set("sigmacast_broker_state_bytes", "Live state, of at most 48 MiB",
            static_cast<double>(broker.state_bytes()));
        raise("sigmacast_broker_gaps_total", "Rows that stand for something lost", counts.gaps);
        raise("sigmacast_broker_lost_total", "Positions that no producer had any more",
              ingest.lost);
        raise("sigmacast_broker_asks_total", "Ranges asked of producers", ingest.asks);
        raise("sigmacast_broker_conflicts_total",
              "Producers refused because another owns the origin", ingest.conflicts);
        raise("sigmacast_broker_snapshots_total", "Snapshots for edges", counts.snapshots);
        raise("sigmacast_broker_ranges_total", "Ranges for edges", counts.ranges);
        raise("sigmacast_broker_history_total", "Pages of the log for clients that were away",
              counts.histories);
        raise("sigmacast_broker_trimmed_total", "Rows removed by retention", writer.rows_trimmed());
        raise("sigmacast_broker_bus_dropped_total", "Messages that found the bus queue full",
              node.dropped());
        raise("sigmacast_broker_denied_total", "Connections whose key was not let in",
              node.denied());
        raise("sigmacast_broker_handshakes_failed_total",
              "Connections that ended before they showed a key, or showed nothing of ours",
              node.handshakes_failed());
        raise("sigmacast_broker_forbidden_total",
              "Messages that wanted more than their program's key may", permissions.refused());
        set("sigmacast_broker_pos", "Committed position of the log",
            static_cast<double>(broker.pos()));
        set("sigmacast_broker_durable", "1 while the database takes commits",
            broker.durable() ? 1 : 0);
        set("sigmacast_broker_damaged", "1 once a damaged row was met; the next start mends it",
            damaged ? 1 : 0);
        set("sigmacast_broker_database_bytes", "Bytes in use in the database",
            static_cast<double>(writer.database_bytes()));
        raise("sigmacast_broker_checkpoints_failed_total",
              "The write-ahead log could not be copied into the database",
              writer.checkpoints_failed());
    }

 private:
    void raise(const std::string& name, const std::string& help, std::uint64_t value) {
        Counter& counter = metrics_.counter(name, help);
        counter.add(static_cast<double>(value) - counter.value());
    }
    void set(const std::string& name, const std::string& help, double value) {
        metrics_.gauge(name, help).set(value);
    }

    Metrics& metrics_;
};

boost::json::object describe(const PollState& poll, Now now) {
    boost::json::object json{{"poll", poll.report.poll}, {"quality", to_string(poll.age.quality)}};
    json["topic"] = poll.report.topic;
    if (!poll.age.reason.empty()) {
        json["reason"] = poll.age.reason;
        json["source"] = poll.age.source;
    }
    if (poll.age.as_of) {
        json["as_of"] = to_rfc3339(poll.age.as_of->wall);
        json["age_ms"] = elapsed(poll.age.as_of->mono, now.mono).count();
    }
    if (poll.age.retry_at) {
        json["retry_at"] = to_rfc3339(*poll.age.retry_at);
    }
    return json;
}

Readiness readiness(const broker::Broker& broker, const std::string& damage, Now now) {
    boost::json::array origins;
    const std::vector<PollState> all = broker.polls(now);
    for (const std::string& name : broker.origins()) {
        boost::json::array polls;
        for (const PollState& poll : all) {
            if (poll.origin == name) {
                polls.push_back(describe(poll, now));
            }
        }
        origins.push_back(boost::json::object{{"name", name}, {"polls", std::move(polls)}});
    }
    boost::json::object json{{"ready", true},
                             {"durable", broker.durable()},
                             {"epoch", broker.epoch()},
                             {"pos", broker.pos()},
                             {"origins", std::move(origins)}};
    if (!damage.empty()) {
        json["damage"] = damage;
    }
    return {true, boost::json::serialize(json)};
}

/// Runs on: the loop.
class Service final : public broker::BrokerOutputs {
 public:
    Service(const Settings& settings, std::string database, bus::Curve curve,
            std::unique_ptr<storage::Store> store, storage::LogReader reader)
        : database_(std::move(database)),
          permissions_(settings.curve),
          broker_(store->take_loaded(), *this, Random::from_system()),
          reader_(std::move(reader)),
          metrics_view_(metrics_),
          timer_(loop_, [this] { on_timer(); }),
          stop_timer_(loop_, [this] { give_up(); }),
          node_(
              loop_, socket_options(settings.broker),
              [this](auto batch) { on_batch(std::move(batch)); }, std::move(curve)),
          writer_(
              std::move(store),
              {settings.broker.retain_values, settings.broker.retain_events,
               settings.broker.retain_bytes},
              [this](storage::CommitOutcome outcome) { post_outcome(std::move(outcome)); },
              [this](storage::Damage damage) { post_damage(std::move(damage)); }),
          admin_(
              loop_, settings.broker.admin_port, metrics_,
              [this] { return readiness(broker_, damage_, system_now()); },
              [this] {
                  metrics_view_.update(broker_, writer_, node_, permissions_, !damage_.empty());
              }) {}

    int run() {
        for (const Result<>& started : {node_.start(), admin_.start()}) {
            if (!started) {
                log_error("cannot start", {{"error", started.error().message}});
                return kExitFailed;
            }
        }
        loop_.on_terminate([this] { begin_stop(); });
        broker_.start(system_now());
        log_info(
            "ready",
            {{"epoch", broker_.epoch()}, {"pos", broker_.pos()}, {"admin_port", admin_.port()}});
        timer_.set(broker_.deadline());
        loop_.run();
        node_.stop();
        writer_.stop();
        log_info("stopped", {{"pos", broker_.pos()}});
        return failed_ ? kExitFailed : kExitOk;
    }

    void publish(const Message& message) override {
        const Mono now = BootClock::now();
        node_.send(kFeed, encode(message, now), now);
    }

    void reply(const std::string& peer, protocol::Any message) override {
        const Mono now = BootClock::now();
        Frames frames = protocol::encode(message, now);
        frames.insert(frames.begin(), peer);
        node_.send(kRepair, std::move(frames), now);
    }

    void commit(std::shared_ptr<const storage::Batch> batch) override {
        writer_.submit(std::move(batch));
    }

    Result<storage::LogRange> read_range(const std::string& origin, const std::string& topic,
                                         sequence::Range range, Now now) override {
        return read([&] { return reader_.range(origin, topic, range, now); });
    }

    Result<storage::LogPage> read_history(std::uint64_t from, std::uint64_t to, Now now) override {
        return read([&] { return reader_.history(from, to, now); });
    }

 private:
    void on_batch(std::vector<bus::Incoming> batch) {
        if (stopping_) {
            return;  // Not acknowledged, so it is repaired after the next start.
        }
        std::vector<Message> ingest;
        const auto hand_over = [&] {
            if (!ingest.empty()) {
                broker_.on_messages(std::exchange(ingest, {}), system_now());
            }
        };
        const Now now = system_now();
        for (bus::Incoming& incoming : batch) {
            const Now sent{incoming.sent, now.wall};
            if (incoming.socket == kIngest) {
                auto message = decode(incoming.frames, sent);
                if (message &&
                    !permissions_.objection(incoming.client, *message, now.mono).empty()) {
                    continue;
                }
                if (message) {
                    ingest.push_back(std::move(*message));
                    if (ingest.size() >= kTurnMax) {
                        hand_over();
                    }
                } else {
                    // Its position is unknown, so it counts as not received: the stream asks for
                    // it, and gives it up in the end.
                    unreadable(message.error());
                }
            } else if (incoming.socket == kRepair) {
                hand_over();  // A hello may end the instance that has sent these.
                on_repair(std::move(incoming), sent, now);
            }
        }
        hand_over();
        after_input();
    }

    void unreadable(const Error& error) {
        broker_.count_unreadable();
        log_debug("a message could not be read", {{"error", error.message}});
    }

    void on_repair(bus::Incoming incoming, Now sent, Now now) {
        Frames& frames = incoming.frames;
        if (frames.size() < 2) {
            unreadable({Errc::kInvalid, "a request without a body"});
            return;
        }
        const std::string peer = std::move(frames.front());
        frames.erase(frames.begin());
        auto request = protocol::decode(frames, sent);
        if (!request) {
            unreadable(request.error());
            return;
        }
        std::string objection = permissions_.objection(incoming.client, *request, now.mono);
        if (!objection.empty()) {
            reply(peer, protocol::Refused{std::move(objection)});
            return;
        }
        broker_.on_request(peer, std::move(*request), now);
    }

    /// On the writer's thread.
    void post_outcome(storage::CommitOutcome outcome) {
        loop_.post([this, outcome = std::move(outcome)] {
            metrics_view_.on_commit(outcome);
            broker_.on_committed(outcome.result, system_now());
            if (!outcome.result && is_damage(outcome.result.error())) {
                give_way(outcome.result.error());
                return;
            }
            after_input();
        });
    }

    /// On the writer's thread.
    void post_damage(storage::Damage damage) {
        loop_.post([this, damage = std::move(damage)] {
            if (damage.rows_only) {
                flag(damage.what);
            } else {
                give_way({Errc::kCorrupt, damage.what});
            }
        });
    }

    /// Damage is believed once two connections have met it.
    template <class Read>
    auto read(Read once) -> decltype(once()) {
        auto found = once();
        if (!found && is_damage(found.error())) {
            if (auto second = storage::LogReader::open(database_)) {
                reader_ = std::move(*second);
                found = once();
            }
            if (!found && is_damage(found.error())) {
                give_way(found.error());
            }
        }
        if (!reader_.damage().empty()) {
            flag(reader_.damage());
        }
        return found;
    }

    /// Single rows: whoever asks for them gets a gap, and all else is as it should be.
    void flag(const std::string& what) {
        if (!damage_.empty()) {
            return;
        }
        damage_ = what;
        log_error(
            "the database is damaged: readers get gaps for such rows; restart the broker when it "
            "suits, which looks at all of it and mends it",
            {{"first", what}});
        storage::suspect(database_);
    }

    void on_timer() {
        broker_.on_timer(system_now());
        after_input();
    }

    void after_input() {
        timer_.set(broker_.deadline());
        if (stopping_ && broker_.idle()) {
            loop_.stop();
        }
    }

    void begin_stop() {
        stopping_ = true;
        stop_timer_.set(system_now().mono + kStopMax);
        after_input();
    }

    static bool is_damage(const Error& error) {
        return error.code == Errc::kCorrupt || error.code == Errc::kConflict;
    }

    /// No later try can succeed; a start can: it looks at the whole file, and mends or replaces it.
    void give_way(const Error& error) {
        if (std::exchange(failed_, true)) {
            return;
        }
        log_error("the database is damaged: ending, so that the next start mends it",
                  {{"error", error.message}});
        storage::suspect(database_);
        loop_.stop();
    }

    void give_up() {
        log_error("stopping although not everything could be committed; producers still have it");
        loop_.stop();
    }

    Loop loop_;
    const std::string database_;
    std::string damage_;  // The first that was met in a row; the next start mends it.
    broker::Permissions permissions_;
    broker::Broker broker_;
    storage::LogReader reader_;
    Metrics metrics_;
    BrokerMetrics metrics_view_;
    Timer timer_;
    Timer stop_timer_;
    bus::Node node_;
    storage::Writer writer_;  // Its thread posts to the loop: after it, ended before it.
    Admin admin_;
    bool stopping_ = false;
    bool failed_ = false;
};

int fail(const Error& error) {
    log_error("cannot start", {{"error", error.message}});
    return kExitFailed;
}

/// Where the disk is full, as soon as there is room: whoever makes it need not start anything.
Result<std::unique_ptr<storage::Store>> open_store(const std::string& path) {
    constexpr Seconds kAgain{1};
    constexpr int kSayEvery = 60;
    for (int tries = 0;; ++tries) {
        auto store = storage::Store::open(path, system_now());
        if (store || store.error().code != Errc::kFull) {
            return store;
        }
        if (tries % kSayEvery == 0) {
            log_error("no room for the database: it starts once there is some",
                      {{"error", store.error().message}});
        }
        std::this_thread::sleep_for(kAgain);
    }
}

int run_broker(const Settings& settings) {
    auto curve = read_curve(settings, CurveRole::kBroker);
    if (!curve) {
        return fail(curve.error());
    }
    const auto file = storage::follow_links(database_path(settings));
    if (!file) {
        return fail(file.error());
    }
    const std::string& path = *file;
    const auto folder = std::filesystem::path(path).parent_path();
    std::error_code ignored;  // What is wrong with the folder shows when the lock is taken.
    if (!folder.empty() && std::filesystem::create_directories(folder, ignored)) {
        std::filesystem::permissions(folder, std::filesystem::perms::owner_all, ignored);
    }
    const auto lock = FileLock::take(path + ".lock");
    if (!lock) {
        const Error& error = lock.error();
        return fail(error.code == Errc::kConflict
                        ? Error{error.code,
                                path +
                                    " is in use by another broker: stop that one, or name another "
                                    "file in broker.database"}
                        : error);
    }
    auto store = open_store(path);
    if (!store) {
        return fail(store.error());
    }
    for (const std::string& repair : (*store)->repairs()) {
        log_error("repaired at start", {{"what", repair}});
    }
    auto reader = storage::LogReader::open(path);
    if (!reader) {
        return fail(reader.error());
    }
    Service service(settings, path, std::move(*curve), std::move(*store), std::move(*reader));
    return service.run();
}

Result<> check(const Settings& settings) {
    const auto curve = read_curve(settings, CurveRole::kBroker);
    return curve ? Result<>() : Result<>(curve.error());
}

}  // namespace
}  // namespace sigmacast

int main(int argc, char** argv) {
    std::optional<std::uint16_t> admin_port;
    std::optional<std::string> database;
    const sigmacast::ProgramInfo info{
        .name = "sigmacast-broker",
        .summary = "Keeps the event log and the last-known-good state, and feeds the edges.",
        .options = {{"--admin-port", "Port of /livez, /readyz and /metrics", &admin_port},
                    {"--database", "The database file", &database}},
        .apply =
            [&](sigmacast::Settings& settings) {
                if (admin_port) {
                    settings.broker.admin_port = *admin_port;
                }
                if (database) {
                    settings.broker.database = *database;
                }
            },
        .check = sigmacast::check};
    return sigmacast::run_program(argc, argv, info, sigmacast::run_broker);
}
