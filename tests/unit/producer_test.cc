// The producer in virtual time: a scripted engine, a clock that is set, and everything that goes
// out kept.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <deque>
#include <functional>
#include <map>
#include <set>

#include "common/codec.h"
#include "engine_captures.h"
#include "producer/core.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

constexpr const char* kSystem = "system.status";
constexpr const char* kJobs = "compression.queue.running";
constexpr const char* kJobStatus = "compression.queue.status";
constexpr const char* kAgents = "agents.list";

PollSettings poll(const std::string& method, const std::string& topic, const std::string& mapper,
                  const std::string& error_code) {
    PollSettings settings;
    settings.name = method;
    settings.method = method;
    settings.topic = topic;
    settings.mapper = mapper;
    settings.error_code = error_code;
    return settings;
}

ProducerSettings settings_with(std::vector<PollSettings> polls) {
    ProducerSettings settings;
    settings.polls = std::move(polls);
    return settings;
}

PollSettings system_poll() {
    return poll(kSystem, kSystem, "system", "SYSTEM_STATUS_FAILED");
}
PollSettings agents_poll() {
    return poll(kAgents, "agent.status", "agents", "AGENT_STATUS_FAILED");
}
PollSettings jobs_poll() {
    return poll(kJobs, "compression.update", "jobs", "COMPRESSION_JOBS_FAILED");
}

/// An engine, a bus and a clock around one Producer.
class World final : public Producer::Io {
 public:
    /// What the engine does with a request: nullopt hangs.
    using Behaviour = std::function<std::optional<Result<http::Response>>(
        std::uint64_t id, const json::value& params)>;
    struct Asked {
        std::string method;
        Millis at;
        json::value params;
    };

    explicit World(ProducerSettings settings, std::uint64_t epoch = 7)
        : producer_({std::move(settings), "nas", "instance", epoch}, *this, Random(1)) {}

    void start() { producer_.start(now()); }
    Now now() const { return {Mono{} + 1h + time_, Wall{} + 1'795'000'000s + time_}; }
    Millis time() const { return time_; }

    /// Lets time pass up to `until` since the start; replies and timers come when they are due.
    void run_until(Millis until) {
        for (int steps = 0; steps < 1'000'000; ++steps) {
            const Mono limit = Mono{} + 1h + until;
            const Mono next = std::min(producer_.deadline(), next_reply());
            if (next > limit) {
                time_ = until;
                return;
            }
            // A step that time cannot make would be a busy loop in the program.
            time_ = std::max(time_, std::chrono::ceil<Millis>(next - Mono{} - 1h));
            deliver_replies();
            if (now().mono >= producer_.deadline()) {
                producer_.on_timer(now());
                ASSERT_GT(producer_.deadline(), now().mono) << "the producer spins";
            }
        }
        FAIL() << "the producer is too busy";
    }
    void run_for(Millis duration) { run_until(time_ + duration); }

    void engine(const std::string& method, Behaviour behaviour) {
        behaviours_[method] = std::move(behaviour);
    }
    void everything(Behaviour behaviour) {
        behaviours_.clear();
        other_ = std::move(behaviour);
    }

    std::vector<Asked> asked(const std::string& method, Millis since = 0ms) const {
        std::vector<Asked> found;
        for (const Asked& asked : asked_) {
            if (asked.at >= since && (method.empty() || asked.method == method)) {
                found.push_back(asked);
            }
        }
        return found;
    }
    std::vector<Message> published(const std::string& topic) const {
        std::vector<Message> found;
        for (const Message& message : published_) {
            if (message.topic == topic) {
                found.push_back(message);
            }
        }
        return found;
    }
    std::vector<Report> reports(const std::string& poll_name) const {
        std::vector<Report> found;
        for (const Message& message : published(report_topic(poll_name))) {
            found.push_back(message.report());
        }
        return found;
    }
    Report last_report(const std::string& poll_name) const {
        const auto all = reports(poll_name);
        return all.empty() ? Report{} : all.back();
    }
    static json::object data(const Message& message) {
        std::string text;
        EXPECT_TRUE(append_json(text, *message.data));
        return json::parse(text).as_object();
    }
    std::vector<Message> finals() const {
        std::vector<Message> found;
        for (const Message& message : published("compression.update")) {
            if (message.final) {
                found.push_back(message);
            }
        }
        return found;
    }
    const Breaker& breaker(const std::string& name) const {
        for (const Breaker* each : producer_.breakers()) {
            if (each->name() == name) {
                return *each;
            }
        }
        throw std::runtime_error("no breaker " + name);
    }
    template <class T>
    std::vector<T> sent() const {
        std::vector<T> found;
        for (const protocol::Any& message : sent_) {
            if (const T* wanted = std::get_if<T>(&message)) {
                found.push_back(*wanted);
            }
        }
        return found;
    }
    void receive(protocol::Any message) { producer_.on_protocol(message, now()); }
    Producer& producer() { return producer_; }
    std::vector<Message>& all_published() { return published_; }
    std::vector<std::uint64_t>& epochs() { return epochs_; }
    bool disk_works_ = true;

 private:
    void call(Call call) override {
        const json::object request = json::parse(call.body).as_object();
        const std::string method(request.at("method").as_string());
        const json::value* params = request.if_contains("params");
        asked_.push_back({method, time_, params == nullptr ? json::value() : *params});
        const auto found = behaviours_.find(method);
        const Behaviour& behaviour = found == behaviours_.end() ? other_ : found->second;
        if (auto reply = behaviour(call.id, asked_.back().params)) {
            replies_.push_back({now().mono + 10ms, call.id, std::move(*reply)});
        }
    }
    void on_poll_ended(const std::string&, std::string_view, Millis) override {}
    void publish(Message message) override { published_.push_back(std::move(message)); }
    void send(protocol::Any message) override { sent_.push_back(std::move(message)); }
    Result<> save_epoch(std::uint64_t epoch) override {
        if (!disk_works_) {
            return Error{Errc::kUnavailable, "the disk is full"};
        }
        epochs_.push_back(epoch);
        return {};
    }

    struct Reply {
        Mono at;
        std::uint64_t id;
        Result<http::Response> reply;
    };
    Mono next_reply() const { return replies_.empty() ? Mono::max() : replies_.front().at; }
    void deliver_replies() {
        while (!replies_.empty() && replies_.front().at <= now().mono) {
            const Reply reply = std::move(replies_.front());
            replies_.pop_front();
            producer_.on_reply(reply.id, reply.reply, now());
        }
    }

    Millis time_{0};
    std::map<std::string, Behaviour> behaviours_;
    Behaviour other_ = [](std::uint64_t, const json::value&) { return std::nullopt; };
    std::deque<Reply> replies_;  // All take as long, so they are in order.
    std::vector<Asked> asked_;
    std::vector<Message> published_;
    std::vector<protocol::Any> sent_;
    std::vector<std::uint64_t> epochs_;
    Producer producer_;
};

World::Behaviour answers(std::function<json::value(const json::value& params)> result) {
    return [result](std::uint64_t id, const json::value& params) {
        return http::Response{.body = json::serialize(json::object{
                                  {"result", result(params)}, {"error", nullptr}, {"id", id}})};
    };
}
World::Behaviour answers(json::value result) {
    return answers([result](const json::value&) { return result; });
}
World::Behaviour rpc_error(int code, std::string text) {
    return [=](std::uint64_t id, const json::value&) {
        const json::object error{{"code", code}, {"message", text}};
        return http::Response{.body = json::serialize(
                                  json::object{{"result", nullptr}, {"error", error}, {"id", id}})};
    };
}
World::Behaviour refuses() {
    return [](std::uint64_t, const json::value&) {
        return Result<http::Response>(Error{Errc::kUnavailable, "connection refused"});
    };
}
World::Behaviour hangs() {
    return [](std::uint64_t, const json::value&) { return std::nullopt; };
}
World::Behaviour wrong_id() {
    return [](std::uint64_t id, const json::value&) {
        return http::Response{.body = R"({"result":{"hostname":"evil"},"error":null,"id":)" +
                                      std::to_string(id + 1) + "}"};
    };
}
/// A status that changes with each answer.
World::Behaviour ticking() {
    return answers([n = 0](const json::value&) mutable -> json::value {
        json::object status = captured_result("system_status").as_object();
        status["hostname"] = "nas";
        status["uptime"] = ++n;
        status["timestamp"] = "now";
        return status;
    });
}
json::value job_list(const std::vector<std::string>& ids, int hidden = 0) {
    json::array jobs;
    for (const std::string& id : ids) {
        jobs.push_back({{"job_id", id}, {"status", "running"}, {"input_path", "/" + id}});
    }
    return {{"jobs", jobs},
            {"total_running", static_cast<int>(ids.size()) + hidden},
            {"total_pending", 0},
            {"total_jobs", static_cast<int>(ids.size()) + hidden}};
}

// The five scenarios of the original plan
// ------------------------------------------------------------------------

class Scenario : public testing::Test {
 protected:
    static ProducerSettings settings() {
        ProducerSettings settings = settings_with({system_poll()});
        settings.health_interval = 0ms;
        return settings;
    }
    void SetUp() override {
        world_.everything(ticking());
        world_.start();
        world_.run_until(7s);
        ASSERT_TRUE(world_.last_report(kSystem).ok);
    }
    /// Five refused polls, from 10 s on: the breaker opens with the fifth, a little after 30 s.
    void open() {
        world_.everything(refuses());
        world_.run_until(31s);
        ASSERT_EQ(BreakerState::kOpen, engine().state());
    }
    const Breaker& engine() const { return world_.breaker("engine"); }
    Millis until(Mono when) const { return elapsed(world_.now().mono, when) + world_.time(); }

    World world_{settings()};
};

TEST_F(Scenario, OneFailureAndQuickRecoveryDoNotOpenTheBreaker) {
    world_.everything(refuses());
    world_.run_until(12s);
    EXPECT_FALSE(world_.last_report(kSystem).ok);
    EXPECT_EQ("RPC_DISCONNECT", world_.last_report(kSystem).code);
    EXPECT_EQ(1u, world_.last_report(kSystem).failures);
    world_.everything(ticking());
    world_.run_until(17s);
    EXPECT_TRUE(world_.last_report(kSystem).ok);
    EXPECT_EQ(0u, world_.last_report(kSystem).failures);
    EXPECT_TRUE(world_.published("circuit_breaker.open").empty());
    EXPECT_EQ(0u, engine().failures());
}

TEST_F(Scenario, FiveFailuresInARowOpenTheBreakerAndNoCallFollows) {
    open();
    const auto opened = world_.published("circuit_breaker.open");
    ASSERT_EQ(1u, opened.size());
    EXPECT_EQ("engine", World::data(opened[0]).at("breaker").as_string());
    EXPECT_EQ(5, World::data(opened[0]).at("failures").to_number<int>());
    const std::size_t calls = world_.asked("").size();
    EXPECT_EQ(2u + 5u, calls);
    world_.run_until(300s);
    EXPECT_EQ(calls, world_.asked("").size());
}

TEST_F(Scenario, WhileItIsOpenEachDuePollIsReportedAsCircuitBreakerOpenAndTheValueStays) {
    const std::optional<AsOf> as_of = world_.last_report(kSystem).as_of;
    const std::size_t values = world_.published(kSystem).size();
    open();
    const std::size_t before = world_.reports(kSystem).size();
    world_.run_until(131s);
    const auto reports = world_.reports(kSystem);
    EXPECT_EQ(before + 20, reports.size()) << "100 s at one each 5 s";
    for (std::size_t i = before; i < reports.size(); ++i) {
        EXPECT_FALSE(reports[i].ok);
        EXPECT_EQ("CIRCUIT_BREAKER_OPEN", reports[i].code);
        EXPECT_EQ("engine", reports[i].source);
        EXPECT_EQ(engine().retry_at()->wall, reports[i].retry_at);
        EXPECT_EQ(as_of->wall, reports[i].as_of->wall);
    }
    EXPECT_EQ(values, world_.published(kSystem).size());
}

TEST_F(Scenario, AfterTheResetTimeExactlyOneProbeGoesOutToTheSecond) {
    open();
    const Millis retry_at = until(engine().retry_at()->mono);
    EXPECT_NEAR(330'000, static_cast<double>(retry_at.count()), 400.0) << "300 s after the fifth";
    world_.run_until(retry_at - 1ms);
    EXPECT_TRUE(world_.asked("", 32s).empty());
    world_.run_until(retry_at);
    ASSERT_EQ(1u, world_.asked("", 32s).size());
    EXPECT_EQ(retry_at, world_.asked("", 32s)[0].at);
    EXPECT_EQ(kSystem, world_.asked("", 32s)[0].method) << "the probe is the poll itself";
    EXPECT_EQ(1u, world_.published("circuit_breaker.half_open").size());
    world_.run_until(retry_at + 299s);
    EXPECT_EQ(1u, world_.asked("", 32s).size()) << "it failed, and the breaker is open again";
    EXPECT_EQ(2u, world_.published("circuit_breaker.open").size());
    world_.run_until(retry_at + 301s);
    EXPECT_EQ(2u, world_.asked("", 32s).size());
}

TEST_F(Scenario, WhenTheEngineIsBackTheBreakerClosesAndDataIsFresh) {
    open();
    const Wall old = world_.last_report(kSystem).as_of->wall;
    const std::size_t values = world_.published(kSystem).size();
    world_.everything(ticking());
    world_.run_until(until(engine().retry_at()->mono) + 10ms);
    EXPECT_EQ(BreakerState::kClosed, engine().state());
    EXPECT_EQ(1u, world_.published("circuit_breaker.closed").size());
    EXPECT_EQ(values + 1, world_.published(kSystem).size());
    EXPECT_TRUE(world_.last_report(kSystem).ok);
    EXPECT_GT(world_.last_report(kSystem).as_of->wall, old);
    const json::object shown = World::data(world_.published("breaker.status").back());
    EXPECT_EQ("closed", shown.at("state").as_string());
}

// Schedule
// -------------------------------------------------------------------------------------------------------

TEST(Schedule, EachPollIsMadeOnceAtTheStartAndThenEachIntervalWithinItsJitter) {
    World world(settings_with({system_poll(), agents_poll()}));
    world.everything(ticking());
    world.engine(kAgents, answers(json::array()));
    world.start();
    EXPECT_EQ(2u, world.asked("", 0ms).size());
    world.run_until(101s);
    const auto calls = world.asked(kSystem);
    ASSERT_EQ(21u, calls.size());
    std::set<Millis> offsets;
    for (std::size_t i = 1; i < calls.size(); ++i) {
        const Millis offset = calls[i].at - 5s * i;
        EXPECT_GE(offset, 0ms);
        EXPECT_LE(offset, 250ms);
        offsets.insert(offset);
    }
    EXPECT_GT(offsets.size(), 5u);
}

TEST(Schedule, APollThatHangsDelaysNoOtherAndIsNotDoubled) {
    PollSettings slow = agents_poll();
    slow.deadline = 6s;
    World world(settings_with({slow, system_poll()}));
    world.everything(ticking());
    world.engine(kAgents, hangs());
    world.start();
    world.run_until(21s);
    EXPECT_EQ(5u, world.reports(kSystem).size());
    for (const Report& report : world.reports(kSystem)) {
        EXPECT_TRUE(report.ok);
    }
    const auto calls = world.asked(kAgents);
    for (std::size_t i = 1; i < calls.size(); ++i) {
        EXPECT_GE(calls[i].at - calls[i - 1].at, 6s);
    }
    EXPECT_EQ(3u, calls.size()) << "at 0, 10 and 20 s: each other one finds it under way";
}

TEST(Schedule, AFailureIsReportedAtTheDeadline) {
    World world(settings_with({system_poll()}));
    world.everything(hangs());
    world.start();
    world.run_until(3s - 1ms);
    EXPECT_TRUE(world.reports(kSystem).empty());
    world.run_until(3s);
    ASSERT_EQ(1u, world.reports(kSystem).size());
    EXPECT_EQ("RPC_DISCONNECT", world.last_report(kSystem).code);
    EXPECT_EQ("no answer within 3s", world.last_report(kSystem).message);
}

TEST(Schedule, AnAnswerThatIsReadAfterItsDeadlineIsNone) {
    World world(settings_with({system_poll()}));
    std::uint64_t asked = 0;
    world.everything([&](std::uint64_t id, const json::value&) {
        asked = id;
        return std::nullopt;
    });
    world.start();
    world.run_until(1s);
    // A freeze of 20 s; then the socket is ready before the timer is looked at.
    const Now late{world.now().mono + 20s, world.now().wall + 20s};
    const std::string body =
        json::serialize(json::object{{"result", captured_result("system_status")}, {"id", asked}});
    world.producer().on_reply(asked, http::Response{.status = 200, .body = body}, late);
    ASSERT_EQ(1u, world.reports(kSystem).size());
    EXPECT_FALSE(world.last_report(kSystem).ok);
    EXPECT_EQ("no answer within 3s", world.last_report(kSystem).message);
    EXPECT_TRUE(world.published(kSystem).empty());
}

TEST(Schedule, ReadyIsWhenEachPollHasAnsweredOrFailedOnce) {
    World world(settings_with({system_poll(), agents_poll()}));
    world.everything(ticking());
    world.engine(kAgents, hangs());
    world.start();
    world.run_until(1s);
    EXPECT_FALSE(world.producer().ready());
    world.run_until(3s);
    EXPECT_TRUE(world.producer().ready());
}

// Values and reports
// ---------------------------------------------------------------------------------------------

TEST(Values, AnUnchangedAnswerIsAReportAndNothingElse) {
    World world(settings_with({system_poll()}));
    world.everything(answers(captured_result("system_status")));
    world.start();
    world.run_until(21s);
    EXPECT_EQ(1u, world.published(kSystem).size());
    const auto reports = world.reports(kSystem);
    ASSERT_EQ(5u, reports.size());
    EXPECT_GT(reports[4].as_of->wall, reports[0].as_of->wall);
    for (const Report& report : reports) {
        ASSERT_EQ(1u, report.after.size()) << "no report may overtake the value that it confirms";
        EXPECT_EQ(1u, report.after[0].seq);
        EXPECT_EQ(kSystem, report.after[0].topic);
    }
}

TEST(Values, TheReportComesAfterItsValues) {
    World world(settings_with({jobs_poll()}));
    world.everything(answers(captured_result("queue_running_live_05")));
    world.start();
    world.run_until(1s);
    std::vector<std::string> order;
    for (const Message& message : world.all_published()) {
        if (message.topic == "compression.update") {
            order.push_back(message.key.empty() ? "summary" : "job");
        } else if (message.kind == Kind::kReport) {
            order.push_back("report");
            EXPECT_EQ(7u, message.report().after.at(0).seq);
            EXPECT_EQ(7u, message.report().keys->size());
        }
    }
    EXPECT_EQ(
        (std::vector<std::string>{"job", "job", "job", "job", "job", "job", "summary", "report"}),
        order);
}

TEST(Values, AnAnswerThatCannotBeUsedOverwritesNothingAndIsThePollsOwnFailure) {
    World world(settings_with({system_poll()}));
    world.everything(ticking());
    world.start();
    world.run_until(1s);
    const auto as_of = world.last_report(kSystem).as_of;
    world.everything(answers(json::parse(R"({"hostname":"nas","uptime":"soon"})")));
    world.run_until(6s);
    EXPECT_EQ(1u, world.published(kSystem).size());
    EXPECT_EQ("SYSTEM_STATUS_FAILED", world.last_report(kSystem).code);
    EXPECT_EQ("the engine's answer cannot be used: result lacks cpu_usage",
              world.last_report(kSystem).message);
    EXPECT_EQ(as_of->wall, world.last_report(kSystem).as_of->wall);
    EXPECT_EQ(1u, world.breaker(kSystem).failures());
    EXPECT_EQ(0u, world.breaker("engine").failures());
}

TEST(Values, AReplyWithAnotherIdIsAFailure) {
    World world(settings_with({system_poll()}));
    world.everything(wrong_id());
    world.start();
    world.run_until(1s);
    EXPECT_EQ("SYSTEM_STATUS_FAILED", world.last_report(kSystem).code);
    EXPECT_TRUE(world.published(kSystem).empty());
}

TEST(Values, AMethodThatIsNotSupportedIsNoFailureAndIsTriedAgainAfterFiveMinutes) {
    World world(settings_with({system_poll()}));
    world.everything(rpc_error(-32601, "Method not found"));
    world.start();
    world.run_until(299s);
    EXPECT_EQ(1u, world.asked("").size());
    EXPECT_EQ(60u, world.reports(kSystem).size()) << "silence would mean trouble";
    const Report report = world.last_report(kSystem);
    EXPECT_TRUE(report.unsupported);
    EXPECT_FALSE(report.ok);
    EXPECT_EQ("METHOD_NOT_FOUND", report.code);
    EXPECT_EQ(0u, report.failures);
    EXPECT_EQ(0u, world.breaker(kSystem).failures());
    EXPECT_TRUE(world.published("rpc_error").empty());
    world.everything(ticking());
    world.run_until(306s);
    EXPECT_EQ(2u, world.asked("").size());
    EXPECT_TRUE(world.last_report(kSystem).ok);
}

TEST(Values, AMethodThatIsNotSupportedStaysSoWhileTheEngineIsAway) {
    ProducerSettings settings = settings_with({system_poll(), agents_poll()});
    settings.unsupported_retry = 60s;
    World world(settings);
    world.engine(kSystem, rpc_error(-32601, "Method not found"));
    world.engine(kAgents, refuses());
    world.start();
    world.run_until(59s);
    ASSERT_EQ(BreakerState::kOpen, world.breaker("engine").state());
    ASSERT_TRUE(world.last_report(kSystem).unsupported);
    world.everything(refuses());
    const std::size_t made = world.asked(kSystem).size();
    for (int step = 0; step < 60 && world.asked(kSystem).size() == made; ++step) {
        EXPECT_TRUE(world.last_report(kSystem).unsupported) << step;
        EXPECT_EQ("METHOD_NOT_FOUND", world.last_report(kSystem).code) << step;
        EXPECT_GT(world.last_report(kSystem).retry_at, world.now().wall - 6s) << step;
        world.run_for(1s);
    }
    EXPECT_GT(world.reports(kSystem).size(), 12u) << "silence would mean trouble";
}

TEST(Values, AFailedReportStillNamesTheValuesThatItMustNotOvertake) {
    World world(settings_with({system_poll()}));
    world.everything(ticking());
    world.start();
    world.run_until(6s);
    const std::uint64_t newest = world.published(kSystem).back().seq;
    ASSERT_GT(newest, 1u);
    world.everything(refuses());
    world.run_until(12s);
    const Report report = world.last_report(kSystem);
    ASSERT_FALSE(report.ok);
    ASSERT_EQ(1u, report.after.size()) << "it repeats the as_of of an answer";
    EXPECT_EQ(kSystem, report.after[0].topic);
    EXPECT_EQ(newest, report.after[0].seq);
}

TEST(Values, RpcErrorIsPublishedAtTheFirstFailureAndThenEachThirtySeconds) {
    ProducerSettings settings = settings_with({system_poll()});
    settings.poll_breaker.failures = 1000;
    World world(settings);
    world.everything(rpc_error(-32603, "Internal error"));
    world.start();
    world.run_until(29s);
    ASSERT_EQ(1u, world.published("rpc_error").size());
    const json::object first = World::data(world.published("rpc_error")[0]);
    EXPECT_EQ("rpc_disconnect", first.at("reason").as_string());
    EXPECT_EQ("SYSTEM_STATUS_FAILED", first.at("error_code").as_string());
    EXPECT_EQ(1, first.at("consecutive_failures").to_number<int>());
    world.run_until(91s);
    const auto errors = world.published("rpc_error");
    ASSERT_GE(errors.size(), 3u);
    ASSERT_LE(errors.size(), 4u);
    EXPECT_GE(errors[1].at - errors[0].at, 30s);
    EXPECT_GE(errors[2].at - errors[1].at, 30s);
}

// What happened between two answers
// ------------------------------------------------------------------------------

/// The answer of agents.list: id and status of each.
json::value agent_list(const std::vector<std::pair<std::string, std::string>>& agents) {
    json::array list;
    for (const auto& [id, status] : agents) {
        list.push_back({{"agent_id", id}, {"status", status}, {"tasks_completed", 0}});
    }
    return list;
}

class Happened : public testing::Test {
 protected:
    void agents(const std::vector<std::pair<std::string, std::string>>& list) {
        world_.engine(kAgents, answers(agent_list(list)));
    }
    /// What the broker holds from before.
    static protocol::Welcome welcome(const char* data) {
        const auto bytes = std::make_shared<const std::string>(to_msgpack(json::parse(data)));
        return {7, {}, {{"agent.status", kAgents, "", bytes}}};
    }
    /// Topics of the lifecycle events that went out, in their order.
    std::vector<std::string> told() {
        std::vector<std::string> topics;
        for (const Message& message : world_.all_published()) {
            if (message.kind == Kind::kEvent && message.topic.starts_with("agent.")) {
                topics.push_back(message.topic);
            }
        }
        return topics;
    }
    using Topics = std::vector<std::string>;

    World world_{settings_with({agents_poll()})};
};

TEST_F(Happened, WhatAnAnswerShowsIsToldAfterTheStateAndBeforeTheReport) {
    agents({{"a", "idle"}});
    world_.start();
    world_.run_until(1s);
    EXPECT_EQ(Topics{}, told()) << "the first answer is the base";
    agents({{"a", "busy"}, {"b", "idle"}});
    world_.run_until(6s);
    EXPECT_EQ((Topics{"agent.task_assigned", "agent.started"}), told());
    const Message event = world_.published("agent.started").at(0);
    EXPECT_EQ(Kind::kEvent, event.kind);
    EXPECT_EQ("b", World::data(event).at("agent_id").as_string());
    EXPECT_EQ(unix_seconds(event.at), World::data(event).at("timestamp").as_int64());
    std::vector<std::string> order;
    for (const Message& message : world_.all_published()) {
        if (message.kind != Kind::kHead && message.topic != "breaker.status") {
            order.push_back(message.topic);
        }
    }
    EXPECT_EQ((Topics{"agent.status", "poll.agents.list", "agent.status", "agent.task_assigned",
                      "agent.started", "poll.agents.list"}),
              order);
}

TEST_F(Happened, AnEngineThatFailsAndComesBackWithTheSameAgentsInventsNothing) {
    agents({{"a", "idle"}, {"b", "busy"}});
    world_.start();
    world_.run_until(6s);
    for (const World::Behaviour& failure :
         {refuses(), rpc_error(-32603, "boom"), rpc_error(-32601, "no such method"),
          answers(json::parse(R"([{"agent_id":"a"},7])"))}) {
        world_.everything(failure);
        world_.run_for(6s);
        agents({{"a", "idle"}, {"b", "busy"}});
        world_.run_for(400s);
        ASSERT_TRUE(world_.last_report(kAgents).ok);
    }
    EXPECT_EQ(Topics{}, told());
    agents({{"a", "idle"}});
    world_.run_for(6s);
    EXPECT_EQ(Topics{"agent.stopped"}, told()) << "what happened meanwhile is told";
}

TEST_F(Happened, APartialListStopsNoAgentAndOverwritesNone) {
    agents({{"a", "idle"}, {"b", "busy"}});
    world_.start();
    world_.run_until(1s);
    world_.engine(kAgents, answers(json::value{{"agents", agent_list({{"a", "error"}})},
                                               {"total_agents", 2}}));
    world_.run_until(6s);
    EXPECT_EQ(Topics{}, told());
    const json::object data = World::data(world_.published("agent.status").back());
    EXPECT_EQ("busy", data.at("agents").at("b").at("status").as_string());
    EXPECT_EQ(2, data.at("total_agents").as_int64());
    EXPECT_EQ(1, data.at("active_agents").as_int64());
    EXPECT_EQ(1, data.at("error_agents").as_int64());
    agents({{"a", "error"}, {"b", "busy"}});
    world_.run_until(11s);
    EXPECT_EQ(Topics{}, told());
}

TEST_F(Happened, AfterARestartTheStateOfTheBrokersIsTheBase) {
    agents({{"a", "idle"}});
    world_.start();
    world_.receive(welcome(R"({"agents":{"a":{"status":"busy"},"gone":{"status":"idle"}}})"));
    world_.run_until(1s);
    EXPECT_EQ(Topics{"agent.stopped"}, told());
    EXPECT_EQ("gone", World::data(world_.published("agent.stopped")[0]).at("agent_id").as_string());
    world_.run_until(30s);
    EXPECT_EQ(1u, told().size());
}

TEST_F(Happened, AWelcomeThatIsSlowerThanTheFirstAnswerIsComparedWithItOnce) {
    agents({{"a", "idle"}});
    world_.start();
    world_.run_until(1s);
    const auto held = welcome(R"({"agents":{"gone":{"status":"idle"},"a":{"status":"idle"}}})");
    world_.receive(held);
    EXPECT_EQ(Topics{"agent.stopped"}, told());
    world_.receive(held);
    EXPECT_EQ(1u, told().size()) << "a later welcome has what we said ourselves";
}

TEST_F(Happened, StateOfAnotherPollOrKeyIsNoBase) {
    agents({{"a", "idle"}});
    world_.start();
    auto other = welcome(R"({"agents":{"gone":{"status":"idle"}}})");
    other.keys.push_back(other.keys[0]);
    other.keys[0].poll = "another";
    other.keys[1].key = "another";
    other.keys.push_back({"agent.status", kAgents, "", nullptr});
    world_.receive(other);
    world_.run_until(1s);
    EXPECT_EQ(Topics{}, told());
}

// Breakers
// -------------------------------------------------------------------------------------------------------

ProducerSettings eight_polls() {
    ProducerSettings settings;
    for (int i = 0; i < 8; ++i) {
        const std::string name = "m" + std::to_string(i);
        settings.polls.push_back(poll(name, name, "as_is", "M_FAILED"));
    }
    return settings;
}

TEST(Breakers, EightPollsInOneBlipAreOneFailureOfTheTransport) {
    World world(eight_polls());
    world.everything(ticking());
    world.start();
    world.run_until(4s);
    world.everything(refuses());
    world.run_until(6s);
    EXPECT_EQ(1u, world.breaker("engine").failures());
    for (int i = 0; i < 8; ++i) {
        EXPECT_EQ(0u, world.breaker("m" + std::to_string(i)).failures());
        EXPECT_EQ("RPC_DISCONNECT", world.last_report("m" + std::to_string(i)).code);
    }
    world.everything(ticking());
    world.run_until(11s);
    EXPECT_EQ(0u, world.breaker("engine").failures());
}

TEST(Breakers, ADeadEngineOpensTheTransportBreakerAloneAfterFiveRounds) {
    World world(eight_polls());
    world.everything(hangs());
    world.start();
    world.run_until(20s);
    EXPECT_EQ(4u, world.breaker("engine").failures());
    world.run_until(24s);
    EXPECT_EQ(BreakerState::kOpen, world.breaker("engine").state());
    EXPECT_EQ(1u, world.published("circuit_breaker.open").size());
}

TEST(Breakers, AMethodThatHangsWhileOthersAnswerOpensItsOwnBreaker) {
    World world(settings_with({system_poll(), agents_poll()}));
    world.everything(ticking());
    world.engine(kAgents, hangs());
    world.start();
    world.run_until(40s);
    EXPECT_EQ(BreakerState::kOpen, world.breaker(kAgents).state());
    EXPECT_EQ(BreakerState::kClosed, world.breaker("engine").state());
    EXPECT_EQ("CIRCUIT_BREAKER_OPEN", world.last_report(kAgents).code);
    EXPECT_TRUE(world.last_report(kSystem).ok);
    EXPECT_EQ(5u, world.asked(kAgents).size());
}

TEST(Breakers, AMethodThatBreaksConnectionsWhileOthersAnswerOpensItsOwnBreaker) {
    World world(settings_with({system_poll(), agents_poll()}));
    world.everything(ticking());
    world.engine(kAgents, refuses());
    world.start();
    world.run_until(60s);
    EXPECT_EQ(BreakerState::kOpen, world.breaker(kAgents).state());
    EXPECT_EQ(BreakerState::kClosed, world.breaker("engine").state());
}

TEST(Breakers, APollsOwnBreakerProbesAtItsTimeAndCloses) {
    ProducerSettings settings = settings_with({system_poll(), agents_poll()});
    settings.poll_breaker.reset = 62s;
    World world(settings);
    world.everything(ticking());
    world.engine(kAgents, rpc_error(-32603, "boom"));
    world.start();
    world.run_until(22s);
    ASSERT_EQ(BreakerState::kOpen, world.breaker(kAgents).state());
    const Millis retry_at =
        world.time() + elapsed(world.now().mono, world.breaker(kAgents).retry_at()->mono);
    world.engine(kAgents, answers(json::array()));
    world.run_until(retry_at - 1ms);
    EXPECT_EQ(5u, world.asked(kAgents).size());
    world.run_until(retry_at + 10ms);
    EXPECT_EQ(6u, world.asked(kAgents).size());
    EXPECT_EQ(BreakerState::kClosed, world.breaker(kAgents).state());
    EXPECT_TRUE(world.last_report(kAgents).ok);
}

TEST(Breakers, HealthChecksFindAReturnedEngineInSecondsAndEachPollIsLiveAtOnce) {
    World world(eight_polls());
    world.everything(refuses());
    world.start();
    world.run_until(60s);
    ASSERT_EQ(BreakerState::kOpen, world.breaker("engine").state());
    EXPECT_GE(world.asked("health.check").size(), 3u);
    EXPECT_EQ(1u, world.published("circuit_breaker.open").size()) << "a failed check is no probe";
    world.everything(ticking());
    world.run_until(70s + 500ms);
    EXPECT_EQ(BreakerState::kClosed, world.breaker("engine").state());
    const Millis closed =
        world.published("circuit_breaker.closed").at(0).at - Wall{} - 1'795'000'000s;
    for (int i = 0; i < 8; ++i) {
        const auto reports = world.published(report_topic("m" + std::to_string(i)));
        bool live_at_once = false;
        for (const Message& report : reports) {
            const Millis at = report.at - Wall{} - 1'795'000'000s;
            live_at_once |= report.report().ok && at - closed <= 20ms;
        }
        EXPECT_TRUE(live_at_once) << i;
    }
}

TEST(Breakers, HealthChecksDoNotShortenAPollsOwnBreaker) {
    World world(settings_with({system_poll(), agents_poll()}));
    world.everything(ticking());
    world.engine(kAgents, rpc_error(-32603, "boom"));
    world.start();
    world.run_until(250s);
    EXPECT_EQ(5u, world.asked(kAgents).size());
    EXPECT_TRUE(world.asked("health.check").empty());
}

TEST(Breakers, OneMethodThatHangsCannotKeepTheTransportBreakerOpen) {
    ProducerSettings settings = settings_with({agents_poll(), system_poll()});
    settings.health_interval = 0ms;
    World world(settings);
    world.everything(hangs());
    world.start();
    world.run_until(30s);
    ASSERT_EQ(BreakerState::kOpen, world.breaker("engine").state());
    world.engine(kSystem, ticking());
    world.run_until(660s);
    EXPECT_EQ(BreakerState::kClosed, world.breaker("engine").state()) << "probes take turns";
}

TEST(Breakers, EachBreakersStateIsPublishedAtTheStart) {
    World world(settings_with({system_poll(), agents_poll()}));
    world.everything(hangs());
    world.start();
    std::set<std::string> names;
    for (const Message& message : world.published("breaker.status")) {
        names.insert(message.key);
        EXPECT_EQ("", message.poll);
        EXPECT_EQ("closed", World::data(message).at("state").as_string());
    }
    EXPECT_EQ((std::set<std::string>{"engine", kSystem, kAgents}), names);
}

// Ends of jobs
// ---------------------------------------------------------------------------------------------------

class JobEnds : public testing::Test {
 protected:
    void SetUp() override {
        lists({"a", "b"});
        world_.start();
        world_.run_until(1s);
    }
    void lists(const std::vector<std::string>& ids, int hidden = 0) {
        world_.engine(kJobs, answers(job_list(ids, hidden)));
    }
    void status(const char* text) { world_.engine(kJobStatus, answers(json::parse(text))); }

    World world_{settings_with({jobs_poll()})};
};

TEST_F(JobEnds, AJobThatACompleteListLacksIsAskedForAndItsEndIsToldOnce) {
    lists({"b"});
    status(R"({"job_id":"a","status":"completed","progress":99.5,"error":null})");
    world_.run_until(30s);
    ASSERT_EQ(1u, world_.finals().size());
    const Message end = world_.finals()[0];
    EXPECT_EQ("a", end.key);
    EXPECT_EQ(kJobs, end.poll);
    EXPECT_EQ(
        json::parse(R"({"job_id":"a","status":"completed","input_path":"/a","progress":99.5})"),
        json::value(World::data(end)));
    ASSERT_EQ(1u, world_.asked(kJobStatus).size());
    EXPECT_EQ("a", world_.asked(kJobStatus)[0].params.at("job_id").as_string());
}

TEST_F(JobEnds, AListThatWasCutOffEndsNothing) {
    lists({"b"}, 1);
    world_.run_until(30s);
    EXPECT_TRUE(world_.asked(kJobStatus).empty());
    EXPECT_FALSE(world_.last_report(kJobs).complete);
    lists({"b"});
    status(R"({"status":"completed"})");
    world_.run_until(40s);
    EXPECT_EQ(1u, world_.finals().size()) << "the next complete list does";
}

TEST_F(JobEnds, AFailedPollEndsNothing) {
    world_.engine(kJobs, rpc_error(-32603, "boom"));
    world_.run_until(20s);
    EXPECT_TRUE(world_.asked(kJobStatus).empty());
}

TEST_F(JobEnds, NotFoundIsStatusUnknownAtOnce) {
    lists({"b"});
    world_.engine(kJobStatus, rpc_error(-32603, "Job not found: a"));
    world_.run_until(6s);
    ASSERT_EQ(1u, world_.finals().size());
    EXPECT_EQ("unknown", World::data(world_.finals()[0]).at("status").as_string());
    EXPECT_EQ("/a", World::data(world_.finals()[0]).at("input_path").as_string());
    EXPECT_EQ(0u, world_.breaker(kJobs).failures());
}

TEST_F(JobEnds, ThreeFailedTriesAreStatusUnknown) {
    lists({"b"});
    world_.engine(kJobStatus, rpc_error(-32603, "boom"));
    world_.run_until(14s);
    EXPECT_TRUE(world_.finals().empty());
    world_.run_until(16s);
    ASSERT_EQ(1u, world_.finals().size());
    EXPECT_EQ("unknown", World::data(world_.finals()[0]).at("status").as_string());
    EXPECT_EQ(3u, world_.asked(kJobStatus).size());
    world_.run_until(60s);
    EXPECT_EQ(3u, world_.asked(kJobStatus).size());
}

TEST_F(JobEnds, AJobThatStillRunsHasNotEnded) {
    lists({"b"});
    status(R"({"status":"running"})");
    world_.run_until(9s);
    EXPECT_EQ(1u, world_.asked(kJobStatus).size());
    EXPECT_TRUE(world_.finals().empty());
    status(R"({"status":"completed"})");
    world_.run_until(12s);
    EXPECT_EQ(1u, world_.finals().size());
}

TEST_F(JobEnds, AJobThatComesBackBeforeTheAnswerHasNotEnded) {
    lists({"b"});
    world_.engine(kJobStatus, rpc_error(-32603, "boom"));
    world_.run_until(6s);
    lists({"a", "b"});
    world_.run_until(60s);
    EXPECT_TRUE(world_.finals().empty());
    EXPECT_LE(world_.asked(kJobStatus).size(), 2u);
}

TEST_F(JobEnds, NoMoreThanFourAreAskedForAtOnce) {
    std::vector<std::string> many{"a", "b"};
    for (int i = 0; i < 50; ++i) {
        many.push_back("job" + std::to_string(i));
    }
    lists(many);
    world_.run_until(6s);
    lists({});
    world_.engine(kJobStatus, hangs());
    world_.run_until(12s);
    EXPECT_EQ(4u, world_.asked(kJobStatus).size());
    status(R"({"status":"completed"})");
    world_.run_until(60s);
    EXPECT_EQ(52u, world_.finals().size());
}

TEST_F(JobEnds, MoreThanAThousandAtOnceAreToldWithoutAsking) {
    std::vector<std::string> many{"a", "b"};
    for (int i = 0; i < 1100; ++i) {
        many.push_back("job" + std::to_string(i));
    }
    lists(many);
    world_.run_until(6s);
    lists({});
    world_.engine(kJobStatus, hangs());
    world_.run_until(12s);
    EXPECT_EQ(102u, world_.finals().size());
    EXPECT_EQ("unknown", World::data(world_.finals()[0]).at("status").as_string());
}

TEST_F(JobEnds, KeysThatTheBrokerHoldsEndWithTheFirstCompleteListThatLacksThem) {
    World fresh(settings_with({jobs_poll()}));
    fresh.engine(kJobs, answers(job_list({"b"})));
    fresh.engine(kJobStatus, answers(json::parse(R"({"status":"failed"})")));
    fresh.start();
    const auto data = std::make_shared<const std::string>(
        to_msgpack(json::parse(R"({"job_id":"old","input_path":"/old","status":"running"})")));
    fresh.receive(protocol::Welcome{7,
                                    {},
                                    {{"compression.update", kJobs, "old", data},
                                     {"compression.update", kJobs, "", data},
                                     {"compression.update", kJobs, "b", data},
                                     {"compression.update", "another poll", "x", data}}});
    fresh.run_until(10s);
    ASSERT_EQ(1u, fresh.finals().size());
    EXPECT_EQ("old", fresh.finals()[0].key);
    EXPECT_EQ("/old", World::data(fresh.finals()[0]).at("input_path").as_string());
    EXPECT_EQ("failed", World::data(fresh.finals()[0]).at("status").as_string());
}

TEST(Breakers, ABreakerOfAPollThatIsConfiguredNoMoreEndsAtTheWelcomeOnce) {
    World world(settings_with({system_poll()}));
    world.everything(ticking());
    world.start();
    const auto data = std::make_shared<const std::string>(
        to_msgpack(json::parse(R"({"name":"gone","state":"open"})")));
    const std::vector<protocol::LiveKey> held{{"breaker.status", "", "engine", data},
                                              {"breaker.status", "", kSystem, data},
                                              {"breaker.status", "", "gone", data},
                                              {"breaker.other", "", "x", data}};
    world.receive(protocol::Welcome{7, {}, held});
    world.receive(protocol::Welcome{7, {}, held});
    std::vector<Message> ended;
    for (const Message& message : world.all_published()) {
        if (message.final) {
            ended.push_back(message);
        }
    }
    ASSERT_EQ(1u, ended.size());
    EXPECT_EQ("breaker.status", ended[0].topic);
    EXPECT_EQ("gone", ended[0].key);
    EXPECT_EQ("", ended[0].poll);
    EXPECT_EQ("open", World::data(ended[0]).at("state").as_string());
}

TEST_F(JobEnds, AnEndThatTheBrokerDoesNotHaveYetIsNotToldTwice) {
    lists({"b"});
    status(R"({"status":"completed"})");
    world_.run_until(8s);
    ASSERT_EQ(1u, world_.finals().size());
    world_.receive(protocol::Welcome{7, {}, {{"compression.update", kJobs, "a", nullptr}}});
    world_.run_until(30s);
    EXPECT_EQ(1u, world_.finals().size());
}

TEST_F(JobEnds, WhileTheEngineIsAwayNobodyAsks) {
    lists({"b"});
    world_.engine(kJobStatus, rpc_error(-32603, "boom"));
    world_.run_until(6s);
    const std::size_t asked = world_.asked(kJobStatus).size();
    world_.everything(refuses());
    world_.run_until(200s);
    EXPECT_LE(world_.asked(kJobStatus).size(), asked + 2) << "until three tries have failed";
}

// The origin
// -----------------------------------------------------------------------------------------------------

class OriginTest : public testing::Test {
 protected:
    void SetUp() override {
        world_.everything(ticking());
        world_.start();
    }
    World world_{settings_with({system_poll()})};
};

TEST_F(OriginTest, HelloIsRepeatedEachSecondUntilWelcomedAndThenItSyncs) {
    world_.run_until(2500ms);
    const auto hellos = world_.sent<protocol::Hello>();
    ASSERT_EQ(3u, hellos.size());
    EXPECT_EQ("nas", hellos[0].origin);
    EXPECT_EQ(7u, hellos[0].epoch);
    EXPECT_TRUE(hellos[2].first);
    ASSERT_EQ(1u, hellos[0].polls.size());
    EXPECT_EQ(5s, hellos[0].polls[0].interval);
    world_.receive(protocol::Welcome{7, {}, {}});
    world_.run_until(5500ms);
    EXPECT_EQ(3u, world_.sent<protocol::Hello>().size());
    EXPECT_EQ(3u, world_.sent<protocol::Sync>().size());
}

TEST_F(OriginTest, UnknownMakesItSayHelloAgain) {
    world_.receive(protocol::Welcome{7, {}, {}});
    world_.receive(protocol::Unknown{});
    ASSERT_EQ(2u, world_.sent<protocol::Hello>().size());
    EXPECT_FALSE(world_.sent<protocol::Hello>()[1].first);
}

TEST_F(OriginTest, AHeadEachSecondNamesTheNewestPositionOfEachStream) {
    world_.run_until(9s);
    const auto heads = world_.published("head");
    ASSERT_EQ(10u, heads.size());
    std::map<std::string, std::uint64_t> last;
    for (const StreamHead& stream : heads.back().head().streams) {
        EXPECT_EQ("nas", stream.origin);
        last[stream.topic] = stream.seq;
    }
    EXPECT_EQ(world_.published(kSystem).back().seq, last[kSystem]);
    EXPECT_TRUE(last.contains(report_topic(kSystem)));
    EXPECT_TRUE(last.contains("breaker.status"));
}

TEST_F(OriginTest, AConflictAtTheFirstHelloRaisesTheEpochOnceAndRestampsTheSamePositions) {
    world_.run_until(500ms);
    const std::uint64_t newest = world_.published(kSystem).back().seq;
    world_.receive(protocol::Conflict{41});
    EXPECT_EQ((std::vector<std::uint64_t>{42}), world_.epochs());
    EXPECT_EQ(42u, world_.sent<protocol::Hello>().back().epoch);
    world_.receive(protocol::Welcome{42, {}, {}});
    world_.receive(protocol::Ask{3, "nas", kSystem, {1, newest}});
    const auto range = world_.sent<protocol::Range>().at(0);
    EXPECT_EQ("42", range.epoch);
    ASSERT_EQ(1u, range.items.size());
    EXPECT_EQ("42", range.items[0].epoch);
    EXPECT_EQ(newest, range.items[0].seq);
    world_.run_until(6s);
    EXPECT_EQ("42", world_.published(kSystem).back().epoch);
    EXPECT_EQ(newest + 1, world_.published(kSystem).back().seq);
}

TEST_F(OriginTest, AnAnswerToAnOlderHelloIsNoSecondConflict) {
    world_.receive(protocol::Conflict{41});
    world_.receive(protocol::Conflict{41});
    EXPECT_EQ(Origin::State::kJoining, world_.producer().origin().state());
    EXPECT_EQ(1u, world_.epochs().size());
}

TEST_F(OriginTest, ASecondConflictFencesAndNothingMoreGoesOut) {
    world_.receive(protocol::Conflict{41});
    world_.receive(protocol::Conflict{50});
    EXPECT_EQ(Origin::State::kConflict, world_.producer().origin().state());
    const std::size_t published = world_.all_published().size();
    const std::size_t asked = world_.asked("").size();
    world_.run_until(60s);
    EXPECT_EQ(published, world_.all_published().size());
    EXPECT_EQ(asked, world_.asked("").size());
    EXPECT_FALSE(world_.producer().ready());
}

TEST_F(OriginTest, AConflictAfterTheWelcomeFences) {
    world_.receive(protocol::Welcome{7, {}, {}});
    world_.receive(protocol::Conflict{8});
    EXPECT_EQ(Origin::State::kConflict, world_.producer().origin().state());
    EXPECT_TRUE(world_.epochs().empty());
}

TEST_F(OriginTest, AnEpochThatCannotBeSavedFences) {
    world_.disk_works_ = false;
    world_.receive(protocol::Conflict{41});
    EXPECT_EQ(Origin::State::kConflict, world_.producer().origin().state());
}

TEST_F(OriginTest, SupersededValuesAreNamedInARange) {
    world_.run_until(16s);
    world_.receive(protocol::Ask{1, "nas", kSystem, {1, 4}});
    const auto range = world_.sent<protocol::Range>().at(0);
    EXPECT_EQ((std::vector<sequence::Range>{{1, 3}}), range.superseded);
    ASSERT_EQ(1u, range.items.size());
    EXPECT_EQ(4u, range.items[0].seq);
}

TEST_F(OriginTest, TheLastValueOfAKeyIsForgottenWhereTheLogHasNothingOfItsStream) {
    World world(settings_with({jobs_poll()}));
    world.engine(kJobs, answers(job_list({"a"})));
    world.engine(kJobStatus, answers(json::parse(R"({"status":"completed"})")));
    world.start();
    world.run_until(1s);
    world.engine(kJobs, answers(job_list({})));
    world.run_until(9s);
    ASSERT_EQ(1u, world.finals().size());
    const std::uint64_t seq = world.finals()[0].seq;
    world.receive(protocol::Ask{1, "nas", "compression.update", {seq, seq}});
    EXPECT_EQ(1u, world.sent<protocol::Range>().at(0).items.size());
    world.receive(protocol::Durable{7, {{"compression.update", seq}}});
    world.receive(protocol::Welcome{7, {}, {}});
    world.receive(protocol::Ask{2, "nas", "compression.update", {seq, seq}});
    EXPECT_TRUE(world.sent<protocol::Range>().at(1).items.empty());
    EXPECT_EQ(1u, world.sent<protocol::Range>().at(1).superseded.size());
}

}  // namespace
}  // namespace sigmacast::producer
