#include "tests/sim/nodes.h"

#include <algorithm>
#include <boost/json.hpp>
#include <sstream>

#include "common/codec.h"
#include "common/state_file.h"
#include "tests/sim/client.h"

namespace sigmacast::sim {
namespace {

namespace json = boost::json;

std::shared_ptr<const Frames> shared(Frames frames) {
    return std::make_shared<const Frames>(std::move(frames));
}

constexpr Millis kReconnectMax{150};
constexpr Millis kWork{120};  // Between two things that a publisher does, about.
constexpr Millis kTrimEvery{1000};
constexpr Millis kBreakerReset{3'000};

}  // namespace

// ---- Connections ----

Uplink::Uplink(Timeline& time, Process& self, Process& broker, bool publishes,
               Link::Receive streamed,
               std::function<void(const std::string&, const Frames&, Mono)> asked,
               Link::Receive answered)
    : stream(time, Link::Type::kPub,
             [&self, &broker, publishes, streamed = std::move(streamed)](const Frames& frames,
                                                                         Mono sent) {
                 Process& to = publishes ? broker : self;
                 to.input([streamed, frames, sent] { streamed(frames, sent); }, true);
             }),
      ask(time, Link::Type::kDealer,
          [this, &broker, asked = std::move(asked)](const Frames& frames, Mono sent) {
              broker.input([asked, name = peer(), frames, sent] { asked(name, frames, sent); },
                           true);
          }),
      answer(time, Link::Type::kPub,  // A router drops what is for nobody.
             [&self, answered = std::move(answered)](const Frames& frames, Mono sent) {
                 self.input([answered, frames, sent] { answered(frames, sent); }, true);
             }),
      time_(time),
      self_(self),
      broker_(broker),
      publishes_(publishes) {}

void Uplink::keep_up() {
    if (!self_.alive() || !broker_.alive() || self_.frozen() || broker_.frozen()) {
        return;
    }
    if (!stream.connected() && !stream_cut_) {
        stream.connect();
    }
    if (!ask.connected() && !repair_cut_) {
        ++number_;
        ask.connect();
        answer.connect();
    }
}

void Uplink::broke() {
    stream.disconnect();
    ask.disconnect();
    answer.disconnect();
}

void Uplink::self_died() {
    if (publishes_) {
        stream.sender_died();
    } else {
        stream.forget();
    }
    ask.forget();
    answer.forget();
}

void Uplink::broker_died() {
    broke();
}

void Uplink::cut_stream(bool on) {
    stream_cut_ = on;
    stream.cut(on);
}

void Uplink::cut_repair(bool on) {
    repair_cut_ = on;
    ask.cut(on);
    answer.cut(on);
}

// ---- The producer ----

ProducerNode::ProducerNode(Timeline& time, Truth& truth, BrokerNode& broker, std::string origin)
    : Process(time, "producer " + origin),
      engine(time),
      uplink(
          time, *this, broker, true,
          [&broker](const Frames& frames, Mono sent) { broker.on_ingest(frames, sent); },
          [&broker](const std::string& peer, const Frames& frames, Mono sent) {
              broker.on_request(peer, frames, sent);
          },
          [this](const Frames& frames, Mono sent) { on_answer(frames, sent); }),
      truth_(truth),
      origin_(std::move(origin)) {
    broker.add(&uplink, false);
    for (const PollSettings& poll : sim_polls()) {
        truth.declare(origin_, {poll.name, poll.topic, poll.interval, poll.deadline});
    }
}

void ProducerNode::on_start() {
    epoch_file = std::max(epoch_file + 1, least_epoch(time_.now().wall));
    ++lives;
    truth_.life_of(origin_, life());
    producer::ProducerOptions options;
    options.settings.polls = sim_polls();
    options.settings.poll_breaker.reset = kBreakerReset;
    options.settings.transport_breaker.reset = kBreakerReset;
    options.settings.health_interval = Millis{1000};
    options.settings.unsupported_retry = Millis{3000};
    options.settings.rpc_error_interval = Millis{2000};
    options.settings.jitter = Millis{100};
    options.origin = origin_;
    options.instance = time_.random.hex(8);
    options.epoch = epoch_file;
    core_ = std::make_unique<producer::Producer>(std::move(options),
                                                 static_cast<producer::Producer::Io&>(*this),
                                                 Random(time_.random.between(1, 1u << 30)));
    core_->start(time_.now());
}

void ProducerNode::on_kill() {
    uplink.self_died();
    calls_.clear();
    views_.clear();
    probes_.clear();
    for (const PollSettings& poll : sim_polls()) {
        truth_.failed(origin_, poll.name);
    }
    core_.reset();
}

Mono ProducerNode::core_deadline() const {
    return core_ ? core_->deadline() : Mono::max();
}

void ProducerNode::on_timer() {
    core_->on_timer(time_.now());
    check_ring();
}

void ProducerNode::publish(Message message) {
    truth_.published(message, life());
    uplink.stream.send(shared(encode(message, time_.mono())));
    if (dies_sending) {
        later(Micros{20}, [this] {
            if (std::exchange(dies_sending, false)) {  // Unless it was healed meanwhile.
                kill();
            }
        });
    }
}

void ProducerNode::send(protocol::Any message) {
    uplink.ask.send(shared(protocol::encode(message, time_.mono())));
}

Result<> ProducerNode::save_epoch(std::uint64_t epoch) {
    epoch_file = epoch;
    return {};
}

void ProducerNode::on_answer(const Frames& frames, Mono sent) {
    const auto message = protocol::decode(frames, {sent, time_.now().wall});
    if (!message) {
        throw Violation("P8", "an answer of the broker cannot be read: " + message.error().message);
    }
    if (const auto* durable = std::get_if<protocol::Durable>(&*message)) {
        truth_.told_durable(origin_, durable->epoch, durable->streams);
    } else if (const auto* welcome = std::get_if<protocol::Welcome>(&*message)) {
        truth_.told_durable(origin_, welcome->epoch, welcome->streams);
    }
    core_->on_protocol(*message, time_.now());
    check_ring();
}

void ProducerNode::check_ring() const {
    if (core_->origin().ring_bytes() > (64u << 20)) {
        throw Violation("P8", "the producer's ring outgrows its bound");
    }
}

/// P7, by the breakers' own word, and by counting.
void ProducerNode::check_call(std::uint64_t id, const std::string& method) {
    if (!core_ || method == "health.check") {
        return;
    }
    const auto all = core_->breakers();
    if (method == "compression.queue.status") {
        return;
    }
    for (const producer::Breaker* breaker : all) {
        const bool concerns = breaker->name() == "engine" || breaker->name() == method;
        if (!concerns) {
            continue;
        }
        if (breaker->state() == producer::BreakerState::kOpen) {
            throw Violation(
                "P7", "a call of " + method + " while breaker " + breaker->name() + " is open");
        }
        if (breaker->state() == producer::BreakerState::kHalfOpen) {
            // Calls from before it opened may still be under way; the probe is this one.
            if (const auto probe = probes_.find(breaker->name());
                probe != probes_.end() && calls_.contains(probe->second)) {
                throw Violation("P7", "two probes for breaker " + breaker->name());
            }
            probes_[breaker->name()] = id;
        }
    }
    PollView& view = views_[method];
    if (view.own_failures >= 5 && time_.mono() < view.last_failure + kBreakerReset) {
        throw Violation("P7", "a call of " + method + " after " +
                                  std::to_string(view.own_failures) + " failures, " +
                                  std::to_string(elapsed(view.last_failure, time_.mono()).count()) +
                                  " ms after the last");
    }
}

void ProducerNode::call(producer::Call call) {
    const json::object request = json::parse(call.body).as_object();
    const std::string method(request.at("method").as_string());
    std::string job;
    if (const json::value* params = request.if_contains("params")) {
        job = std::string(params->at("job_id").as_string());
    }
    check_call(call.id, method);
    if (std::any_of(calls_.begin(), calls_.end(), [&](const auto& other) {
            return other.second == method && method != "compression.queue.status";
        })) {
        throw Violation("P7", "two calls of " + method + " at once");
    }
    calls_[call.id] = method;
    time_.note(call.id);
    Reply reply = engine.ask(call.id, method, job);
    SIM_SAY(time_, name(),
            "asks " << method << " #" << call.id
                    << (reply.response ? reply.poll.empty() ? " (bad)" : "" : " (hangs)"));
    const auto give_up = [this, id = call.id, method] {
        if (calls_.erase(id) > 0) {  // It has not come: a failure of the transport.
            truth_.failed(origin_, method);
            views_[method] = {};
        }
    };
    time_.at(call.deadline, [this, at = life(), give_up] {
        if (at == life()) {
            give_up();
        }
    });
    if (!reply.response) {
        return;
    }
    later(reply.delay, [this, id = call.id, method, reply = std::move(reply),
                        deadline = call.deadline] {
        const auto in_flight = calls_.find(id);
        const bool in_time = in_flight != calls_.end() && time_.mono() < deadline;
        if (in_flight != calls_.end()) {
            calls_.erase(in_flight);
        }
        PollView& view = views_[method];
        if (in_time && !reply.poll.empty()) {
            truth_.answered(origin_, reply.poll, reply.facts, life());
            view = {};
        } else if (in_time && *reply.response) {  // The engine answered, unusably.
            truth_.failed(origin_, method);
            const bool lacks = reply.response->value().body.find("-32601") != std::string::npos;
            if (lacks) {
                view = {};
            } else {
                ++view.own_failures;
                view.last_failure = time_.mono();
            }
        } else {
            truth_.failed(origin_, method);
            view = {};  // The transport's: which breaker counts it depends on the others.
        }
        core_->on_reply(id, *reply.response, time_.now());
        check_ring();
    });
}

void ProducerNode::on_poll_ended(const std::string&, std::string_view, Millis) {}

// ---- The publisher ----

PublisherNode::PublisherNode(Timeline& time, Truth& truth, BrokerNode& broker, std::string origin)
    : Process(time, "publisher " + origin),
      uplink(
          time, *this, broker, true,
          [&broker](const Frames& frames, Mono sent) { broker.on_ingest(frames, sent); },
          [&broker](const std::string& peer, const Frames& frames, Mono sent) {
              broker.on_request(peer, frames, sent);
          },
          [this](const Frames& frames, Mono sent) {
              const auto message = protocol::decode(frames, {sent, time_.now().wall});
              if (!message) {
                  throw Violation("P8", "an answer cannot be read: " + message.error().message);
              }
              if (const auto* durable = std::get_if<protocol::Durable>(&*message)) {
                  truth_.told_durable(origin_, durable->epoch, durable->streams);
              }
              core_->on_protocol(*message, time_.now());
              push_waiting();
          }),
      truth_(truth),
      origin_(std::move(origin)) {
    broker.add(&uplink, false);
}

void PublisherNode::on_start() {
    epoch_file = std::max(epoch_file + 1, least_epoch(time_.now().wall));
    truth_.life_of(origin_, life());
    state_.clear();
    OriginOptions options;
    options.name = origin_;
    options.instance = time_.random.hex(8);
    options.epoch = epoch_file;
    options.limits.events_max = 50;
    options.limits.age_min = Millis{3000};
    options.limits.bytes_max = kRingBytes;
    core_ = std::make_unique<Origin>(std::move(options), static_cast<Origin::Io&>(*this));
    core_->start(time_.now());
    work();
}

void PublisherNode::on_kill() {
    uplink.self_died();
    to_send_ = 0;
    core_.reset();
}

Mono PublisherNode::core_deadline() const {
    return core_ ? core_->deadline() : Mono::max();
}

void PublisherNode::on_timer() {
    core_->on_timer(time_.now());
}

void PublisherNode::publish(Message message) {
    truth_.published(message, life());
    uplink.stream.send(shared(encode(message, time_.mono())));
    if (dies_sending) {
        later(Micros{20}, [this] {
            if (std::exchange(dies_sending, false)) {  // Unless it was healed meanwhile.
                kill();
            }
        });
    }
}

void PublisherNode::send(protocol::Any message) {
    uplink.ask.send(shared(protocol::encode(message, time_.mono())));
}

Result<> PublisherNode::save_epoch(std::uint64_t epoch) {
    epoch_file = epoch;
    return {};
}

void PublisherNode::work() {
    later(time_.between(Millis{10}, 2 * kWork), [this] {
        if (active) {
            const std::uint64_t what = time_.random.between(0, 19);
            if (what < 12) {
                to_send_ += what < 2 ? 30 : 1;  // Now and then a burst.
                push_waiting();
            } else if (what < 18 || state_.size() < 2) {
                push_value(what % 2 == 0 ? "hall" : "k" + std::to_string(next_key_), false);
            } else if (state_.contains("k" + std::to_string(next_key_))) {
                push_value("k" + std::to_string(next_key_), true);
                ++next_key_;
            }
        }
        work();
    });
}

void PublisherNode::push_waiting() {
    while (to_send_ > 0) {
        Message message;
        message.kind = Kind::kEvent;
        message.topic = "note";
        message.age.quality = Quality::kLive;
        message.age.as_of = AsOf{time_.now().wall, time_.mono()};
        message.data =
            std::make_shared<const std::string>(to_msgpack(json::object{{"n", number_ + 1}}));
        if (!core_->push(std::move(message), time_.now())) {
            if (core_->ring_bytes() > kRingBytes + kStateBytes) {
                throw Violation("P8", "the ring of a publisher outgrows its bound");
            }
            return;
        }
        ++number_;
        --to_send_;
    }
}

void PublisherNode::push_value(const std::string& key, bool final) {
    Message message;
    message.kind = Kind::kValue;
    message.topic = "room.lamp";
    message.key = key;
    message.final = final;
    message.age.quality = Quality::kLive;
    message.age.as_of = AsOf{time_.now().wall, time_.mono()};
    const json::object data{{"v", ++version_}};
    message.data = std::make_shared<const std::string>(to_msgpack(data));
    if (core_->push(std::move(message), time_.now())) {
        if (final) {
            state_.erase(key);
        } else {
            state_[key] = content_of(data);
        }
    }
}

// ---- The broker ----

BrokerNode::BrokerNode(Timeline& time, Truth& truth, std::string database)
    : Process(time, "broker"), truth_(truth), database_(std::move(database)) {}

void BrokerNode::add(Uplink* producer_or_edge, bool edge) {
    uplinks_.push_back(producer_or_edge);
    if (edge) {
        edges_.push_back(producer_or_edge);
    }
}

void BrokerNode::on_start() {
    ++restarts;
    auto opened = storage::Store::open(database_, time_.now(), "boot");
    if (!opened) {
        throw Violation("P8", "the database does not open: " + opened.error().message);
    }
    store_ = std::move(*opened);
    (void)store_->database().execute("PRAGMA synchronous=OFF");
    reader_.emplace(storage::LogReader::open(database_, "boot").value());
    storage::Loaded loaded = store_->take_loaded();
    truth_.restarted(loaded);
    core_.emplace(std::move(loaded), static_cast<broker::BrokerOutputs&>(*this),
                  Random(time_.random.between(1, 1u << 30)));
    core_->start(time_.now());
}

void BrokerNode::on_kill() {
    in_flight_.reset();
    core_.reset();
    reader_.reset();
    store_.reset();
    for (Uplink* uplink : uplinks_) {
        uplink->broker_died();
    }
}

Mono BrokerNode::core_deadline() const {
    return core_ ? core_->deadline() : Mono::max();
}

void BrokerNode::on_timer() {
    core_->on_timer(time_.now());
    if (!in_flight_ && store_ && elapsed(last_trim_, time_.mono()) >= kTrimEvery) {
        last_trim_ = time_.mono();
        (void)store_->trim(time_.now(), retention);
    }
}

void BrokerNode::on_ingest(const Frames& frames, Mono sent) {
    auto message = decode(frames, {sent, time_.now().wall});
    if (!message) {
        throw Violation("P8", "a message of a producer cannot be read: " + message.error().message);
    }
    std::vector<Message> batch;
    batch.push_back(std::move(*message));
    core_->on_messages(std::move(batch), time_.now());
}

void BrokerNode::on_request(const std::string& peer, const Frames& frames, Mono sent) {
    auto request = protocol::decode(frames, {sent, time_.now().wall});
    if (!request) {
        throw Violation("P8", "a request cannot be read: " + request.error().message);
    }
    core_->on_request(peer, std::move(*request), time_.now());
}

void BrokerNode::publish(const Message& message) {
    const auto frames = shared(encode(message, time_.mono()));
    for (Uplink* edge : edges_) {
        edge->stream.send(frames);
    }
}

void BrokerNode::reply(const std::string& peer, protocol::Any message) {
    for (Uplink* uplink : uplinks_) {
        if (uplink->peer() == peer) {
            uplink->answer.send(shared(protocol::encode(message, time_.mono())));
            return;
        }
    }
}

void BrokerNode::commit(std::shared_ptr<const storage::Batch> batch) {
    if (in_flight_) {
        throw Violation("P3", "two batches are in flight");
    }
    in_flight_ = std::move(batch);
    later(time_.micros(200, 3'000), [this] { finish_commit(); });
}

void BrokerNode::finish_commit() {
    if (commits_hang_until && *commits_hang_until > time_.mono()) {
        later(Millis{20}, [this] { finish_commit(); });
        return;
    }
    const auto batch = std::exchange(in_flight_, nullptr);
    const Result<storage::Committed> result =
        disk_refuses ? Result<storage::Committed>(Error{Errc::kFull, "the disk is full"})
                     : store_->commit(*batch);
    if (!result && !disk_refuses) {
        throw Violation("P8", "the database refuses: " + result.error().message);
    }
    truth_.committed(*batch, result);
    // The writer's thread has done it; the loop hears of it a moment later, or never.
    in_flight_ = batch;
    later(time_.micros(10, 200), [this, result] {
        in_flight_.reset();
        core_->on_committed(result, time_.now());
    });
}

Result<storage::LogRange> BrokerNode::read_range(const std::string& origin,
                                                 const std::string& topic, sequence::Range range,
                                                 Now now) {
    return reader_->range(origin, topic, range, now);
}

void BrokerNode::check_log() {
    const auto entries = reader_->read({.max = 1'000'000}, time_.now());
    if (!entries) {
        throw Violation("P3", "the log cannot be read: " + entries.error().message);
    }
    // Retention removes what is old, and a clock that is set forward makes much of it so.
    if (time_.wall_jumped_at() == Mono{} && entries->size() != truth_.pos()) {
        throw Violation("P3", "the log holds " + std::to_string(entries->size()) + " rows of " +
                                  std::to_string(truth_.pos()));
    }
    for (const storage::LogEntry& entry : *entries) {
        const Truth::Row* row = truth_.row(entry.message.pos);
        const bool data = entry.message.kind == Kind::kValue || entry.message.kind == Kind::kEvent;
        if (row == nullptr || row->seq != entry.message.seq || row->topic != entry.message.topic ||
            row->key != entry.message.key || row->kind != entry.message.kind ||
            (data && row->content != content_of(entry.message.data))) {
            throw Violation("P3", "the log's row " + std::to_string(entry.message.pos) +
                                      " is not what was committed");
        }
    }
    const auto values = reader_->state(time_.now());
    const auto state = truth_.state_at(truth_.pos());
    if (!values || values->size() != state.size()) {
        throw Violation("P5", "the database's state is " +
                                  (values ? "of " + std::to_string(values->size()) + " keys, not " +
                                                std::to_string(state.size())
                                          : "not readable: " + values.error().message));
    }
    for (const storage::LogEntry& entry : *values) {
        const Message& value = entry.message;
        const auto known = state.find({{value.origin, value.topic}, value.key});
        if (known == state.end() || known->second->pos != value.pos) {
            throw Violation("P5", "the database's state has " + value.topic + "/" + value.key +
                                      " of position " + std::to_string(value.pos) +
                                      ", which is not its newest");
        }
    }
}

// ---- The edge ----

EdgeNode::EdgeNode(Timeline& time, Truth& truth, BrokerNode& broker, std::string name,
                   edge::QueueLimits queue)
    : Process(time, std::move(name)),
      uplink(
          time, *this, broker, false,
          [this](const Frames& frames, Mono sent) { on_feed(frames, sent); },
          [&broker](const std::string& peer, const Frames& frames, Mono sent) {
              broker.on_request(peer, frames, sent);
          },
          [this](const Frames& frames, Mono sent) { on_answer(frames, sent); }),
      truth_(truth),
      queue_(queue) {
    broker.add(&uplink, true);
}

void EdgeNode::on_start() {
    upstream_ = std::make_unique<edge::Upstream>(Random(time_.random.between(1, 1u << 30)),
                                                 std::vector<std::string>{});
    edge::HubOptions options;
    options.heartbeat_interval = kPing;
    options.queue = queue_;
    hub_ =
        std::make_unique<edge::Hub>(std::move(options), Random(time_.random.between(1, 1u << 30)));
    apply(upstream_->start(time_.now()));
    finish();
}

void EdgeNode::on_kill() {
    uplink.self_died();
    by_session_.clear();
    for (auto& [id, port] : std::exchange(ports_, {})) {
        port.client->lost(id, 0);
    }
    hub_.reset();
    upstream_.reset();
}

Mono EdgeNode::core_deadline() const {
    if (!hub_) {
        return Mono::max();
    }
    const auto upstream = upstream_->deadline();
    return upstream && *upstream < hub_->deadline() ? *upstream : hub_->deadline();
}

void EdgeNode::on_timer() {
    apply(upstream_->on_timer(time_.now()));
    finish();
}

void EdgeNode::on_feed(const Frames& frames, Mono sent) {
    auto message = decode(frames, {sent, time_.now().wall});
    if (!message) {
        throw Violation("P8", "a message of the broker cannot be read: " + message.error().message);
    }
    apply(upstream_->on_message(std::move(*message), time_.now(), sent));
    finish();
}

void EdgeNode::on_answer(const Frames& frames, Mono sent) {
    auto reply = protocol::decode(frames, {sent, time_.now().wall});
    if (!reply) {
        throw Violation("P8", "an answer of the broker cannot be read: " + reply.error().message);
    }
    apply(upstream_->on_reply(std::move(*reply), time_.now()));
    finish();
}

void EdgeNode::apply(edge::Upstream::Output output) {
    for (const protocol::Any& request : output.requests) {
        uplink.ask.send(shared(protocol::encode(request, time_.mono())));
    }
    hub_->apply(std::move(output.steps), time_.now());
}

void EdgeNode::catch_up() {
    const auto due = upstream_->deadline();
    if (due && *due <= time_.mono()) {
        apply(upstream_->on_timer(time_.now()));
        finish();
    }
}

void EdgeNode::finish() {
    if (hub_->deadline() <= time_.mono()) {
        hub_->on_timer(time_.now());
    }
    flush();
}

void EdgeNode::flush() {
    for (const protocol::Any& request : hub_->take_requests()) {
        uplink.ask.send(shared(protocol::encode(request, time_.mono())));
    }
    std::vector<std::uint64_t> ids;
    for (const edge::Session* session : hub_->take_touched()) {
        ids.push_back(by_session_.at(session));
    }
    std::sort(ids.begin(), ids.end());
    for (const std::uint64_t id : ids) {
        pump(id);
    }
}

std::optional<std::uint64_t> EdgeNode::connect(ClientNode& client, edge::Dialect dialect) {
    if (!well()) {
        return std::nullopt;
    }
    catch_up();
    const std::uint64_t id = time_.unique();
    edge::Session& session = hub_->open(dialect, time_.now());
    ports_[id] = {&client, &session, 0, client.window(), time_.mono()};
    by_session_[&session] = id;
    later(Micros{1}, [this] { flush(); });
    return id;
}

void EdgeNode::receive(std::uint64_t id, std::string text) {
    input(
        [this, id, text = std::move(text)] {
            const auto port = ports_.find(id);
            if (port == ports_.end()) {
                return;
            }
            catch_up();
            hub_->receive(*port->second.session, text, time_.now());
            flush();
        },
        true);
}

void EdgeNode::taken(std::uint64_t id) {
    input([this, id] {
        const auto port = ports_.find(id);
        if (port != ports_.end()) {
            --port->second.under_way;
            pump(id);
        }
    });
}

void EdgeNode::gone(std::uint64_t id) {
    input([this, id] { close(id, 0); });
}

void EdgeNode::pump(std::uint64_t id) {
    Port& port = ports_.at(id);
    const std::size_t bound = 2 * queue_.bytes_max + (256u << 10);
    if (port.session->queued_bytes() > bound) {
        throw Violation(
            "P6", "a session holds " + std::to_string(port.session->queued_bytes()) + " bytes");
    }
    while (port.under_way < port.window) {
        const auto frames = port.session->take(port.window - port.under_way, time_.now());
        if (frames.empty()) {
            break;
        }
        for (const edge::FramePtr& frame : frames) {
            ++port.under_way;
            port.last = std::max(port.last + Micros{1}, time_.mono() + time_.micros(50, 3'000));
            port.client->carry(port.last, id, frame);
        }
    }
    if (port.session->closing() && port.session->idle()) {
        close(id, port.session->closing()->code);
    }
}

void EdgeNode::close(std::uint64_t id, std::uint16_t code) {
    const auto found = ports_.find(id);
    if (found == ports_.end()) {
        return;
    }
    Port port = found->second;
    ports_.erase(found);
    by_session_.erase(port.session);
    hub_->close(*port.session);
    port.client->lost(id, code, port.last);
}

void EdgeNode::drain() {
    input([this] {
        hub_->drain(time_.mono() + Millis{200}, Millis{800}, time_.now());
        flush();
    });
}

}  // namespace sigmacast::sim
