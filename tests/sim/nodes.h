// The programs, each a real core with a simulated shell: what main.cc does with sockets, clock and
// folder is done here with links, virtual time and a map. The broker's database is a real file.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/broker.h"
#include "edge/hub.h"
#include "edge/upstream.h"
#include "producer/core.h"
#include "storage/reader.h"
#include "storage/store.h"
#include "tests/sim/engine.h"
#include "tests/sim/network.h"
#include "tests/sim/timeline.h"
#include "tests/sim/truth.h"

namespace sigmacast::sim {

class BrokerNode;

/// The two connections of a program to the broker: a stream (ingest or feed) and repair. Each is
/// made anew when it broke; the broker knows the program by another name then.
class Uplink {
 public:
    Uplink(Timeline& time, Process& self, Process& broker, bool publishes, Link::Receive stream,
           std::function<void(const std::string&, const Frames&, Mono)> asked,
           Link::Receive answered);

    /// Connects what is not connected and can be. Called again and again.
    void keep_up();
    void broke();  // Both connections.
    void self_died();
    void broker_died();
    void cut_stream(bool on);
    void cut_repair(bool on);

    [[nodiscard]] std::string peer() const { return self_.name() + "#" + std::to_string(number_); }

    Link stream;
    Link ask;     // From the program to the broker.
    Link answer;  // Back.

 private:
    Timeline& time_;
    Process& self_;
    Process& broker_;
    bool publishes_;
    std::uint64_t number_ = 0;
    bool stream_cut_ = false;
    bool repair_cut_ = false;
};

class ProducerNode final : public Process, private producer::Producer::Io {
 public:
    ProducerNode(Timeline& time, Truth& truth, BrokerNode& broker, std::string origin);

    Engine engine;
    Uplink uplink;
    std::uint64_t epoch_file = 0;
    unsigned lives = 0;
    bool dies_sending = false;  // With its next message.

    [[nodiscard]] const producer::Producer& core() const { return *core_; }
    [[nodiscard]] bool fenced() const {
        return core_ && core_->origin().state() == Origin::State::kConflict;
    }

 private:
    void on_start() override;
    void on_kill() override;
    [[nodiscard]] Mono core_deadline() const override;
    void on_timer() override;

    void publish(Message message) override;
    void send(protocol::Any message) override;
    Result<> save_epoch(std::uint64_t epoch) override;
    void call(producer::Call call) override;
    void on_poll_ended(const std::string& poll, std::string_view result, Millis latency) override;

    void on_answer(const Frames& frames, Mono sent);
    void check_call(std::uint64_t id, const std::string& method);
    void check_ring() const;

    struct PollView {
        std::uint32_t own_failures = 0;  // In a row.
        Mono last_failure{};
    };

    Truth& truth_;
    std::string origin_;
    std::unique_ptr<producer::Producer> core_;
    std::map<std::uint64_t, std::string> calls_;  // In flight, by id: poll or method.
    std::map<std::string, PollView> views_;
    std::map<std::string, std::uint64_t> probes_;  // Of each breaker, the newest.
};

/// `sigmacast publish`, and any producer of one's own: an Origin, with events that are counted and
/// state that no poll feeds. It waits where the ring is full.
class PublisherNode final : public Process, private Origin::Io {
 public:
    PublisherNode(Timeline& time, Truth& truth, BrokerNode& broker, std::string origin);

    Uplink uplink;
    std::uint64_t epoch_file = 0;
    bool active = true;
    bool dies_sending = false;  // With its next message.
    [[nodiscard]] std::map<std::string, std::string> state() const { return state_; }
    [[nodiscard]] std::uint64_t waiting() const { return to_send_; }

    static constexpr std::size_t kRingBytes = 24u << 10;  // Of events; and some state beside.
    static constexpr std::size_t kStateBytes = 32u << 10;

 private:
    void on_start() override;
    void on_kill() override;
    [[nodiscard]] Mono core_deadline() const override;
    void on_timer() override;

    void publish(Message message) override;
    void send(protocol::Any message) override;
    Result<> save_epoch(std::uint64_t epoch) override;

    void work();
    void push_waiting();
    void push_value(const std::string& key, bool final);

    Truth& truth_;
    std::string origin_;
    std::unique_ptr<Origin> core_;
    std::uint64_t number_ = 0;  // Of the newest event; survives restarts, as its input would.
    std::uint64_t version_ = 0;
    std::uint64_t to_send_ = 0;                 // Events that wait for room.
    std::map<std::string, std::string> state_;  // What it has said in this life.
    std::uint64_t next_key_ = 1;
};

class EdgeNode;

class BrokerNode final : public Process, private broker::BrokerOutputs {
 public:
    BrokerNode(Timeline& time, Truth& truth, std::string database);

    /// A message that a program's ingest link brought; a request of its repair link.
    void on_ingest(const Frames& frames, Mono sent);
    void on_request(const std::string& peer, const Frames& frames, Mono sent);
    void add(Uplink* producer_or_edge, bool edge);
    /// At the end: the log as a reader sees it is what was committed.
    void check_log();

    bool disk_refuses = false;
    std::optional<Mono> commits_hang_until;
    storage::TrimLimits retention{Millis{3'600'000}, Millis{3'600'000}, 1u << 30};
    std::uint64_t restarts = 0;

    [[nodiscard]] const broker::Broker* core() const { return core_ ? &*core_ : nullptr; }

 private:
    void on_start() override;
    void on_kill() override;
    [[nodiscard]] Mono core_deadline() const override;
    void on_timer() override;

    void publish(const Message& message) override;
    void reply(const std::string& peer, protocol::Any message) override;
    void commit(std::shared_ptr<const storage::Batch> batch) override;
    Result<storage::LogRange> read_range(const std::string& origin, const std::string& topic,
                                         sequence::Range range, Now now) override;
    Result<storage::LogPage> read_history(std::uint64_t from, std::uint64_t to, Now now) override {
        return reader_->history(from, to, now);
    }

    void finish_commit();

    Truth& truth_;
    std::string database_;
    std::unique_ptr<storage::Store> store_;
    std::optional<storage::LogReader> reader_;
    std::optional<broker::Broker> core_;
    std::shared_ptr<const storage::Batch> in_flight_;
    std::vector<Uplink*> uplinks_;
    std::vector<Uplink*> edges_;
    Mono last_trim_{};
};

class ClientNode;

class EdgeNode final : public Process {
 public:
    EdgeNode(Timeline& time, Truth& truth, BrokerNode& broker, std::string name,
             edge::QueueLimits queue);

    /// What a client's connection is to the edge; ids are never used twice.
    std::optional<std::uint64_t> connect(ClientNode& client, edge::Dialect dialect);
    void receive(std::uint64_t port, std::string text);
    /// The client has taken a frame.
    void taken(std::uint64_t port);
    /// The socket broke.
    void gone(std::uint64_t port);
    /// SIGTERM.
    void drain();

    Uplink uplink;
    [[nodiscard]] const edge::Hub* hub() const { return hub_.get(); }

    static constexpr Millis kPing{2'000};

 private:
    struct Port {
        ClientNode* client = nullptr;
        edge::Session* session = nullptr;
        std::size_t under_way = 0;
        std::size_t window = 0;
        Mono last{};
    };

    void on_start() override;
    void on_kill() override;
    [[nodiscard]] Mono core_deadline() const override;
    void on_timer() override;

    void on_feed(const Frames& frames, Mono sent);
    void on_answer(const Frames& frames, Mono sent);
    void apply(edge::Upstream::Output output);
    void catch_up();
    void finish();
    void flush();
    void pump(std::uint64_t id);
    void close(std::uint64_t id, std::uint16_t code);

    Truth& truth_;
    edge::QueueLimits queue_;
    std::unique_ptr<edge::Upstream> upstream_;
    std::unique_ptr<edge::Hub> hub_;
    std::map<std::uint64_t, Port> ports_;
    std::map<const edge::Session*, std::uint64_t> by_session_;  // Looked up, never walked.
};

}  // namespace sigmacast::sim
