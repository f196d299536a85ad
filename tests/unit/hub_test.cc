#include "edge/hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Object = boost::json::object;

class HubTest : public ::testing::Test {
 protected:
    void make_hub(HubOptions options) {
        hub_ = std::make_unique<Hub>(std::move(options), Random(3));
    }

    void apply(Upstream::Step step) {
        std::vector<Upstream::Step> steps;
        steps.push_back(std::move(step));
        hub_->apply(std::move(steps), clock_.now());
    }
    void poll(Make make, std::uint64_t report_seq, Age age,
              std::optional<std::vector<std::string>> keys = {}) {
        apply(Upstream::PollUpdate{poll_state(std::move(make), report_seq, std::move(age), keys)});
    }
    /// An edge that has joined, with a poll that was answered.
    void join() {
        apply(snapshot(1, {}, {poll_state({}, 1, live(clock_.now()))}, {value({}, clock_.now())}));
        apply(Upstream::UplinkChange{true});
    }
    /// Moves time on and does what falls due.
    void wait(Millis span) {
        const Mono end = clock_.now().mono + span;
        while (hub_->deadline() <= end) {
            clock_.advance(std::max(elapsed(clock_.now().mono, hub_->deadline()), Millis{1}));
            hub_->on_timer(clock_.now());
        }
        clock_.advance(elapsed(clock_.now().mono, end));
    }
    std::vector<Object> read(Session& session) {
        std::vector<Object> read;
        for (const FramePtr& each : session.take(10'000, clock_.now())) {
            read.push_back(json_of(each));
        }
        return read;
    }
    static std::vector<std::string> types(const std::vector<Object>& messages) {
        std::vector<std::string> types;
        for (const Object& message : messages) {
            types.emplace_back(message.at("type").as_string());
        }
        return types;
    }
    std::vector<std::string> types(Session& session) { return types(read(session)); }
    Session& legacy() {
        Session& session = hub_->open(Dialect::kLegacy, clock_.now());
        read(session);
        return session;
    }
    Session& v1(const std::string& topic = "system.status") {
        Session& session = hub_->open(Dialect::kV1, clock_.now());
        say(session, R"({"type":"subscribe","data":{"types":[")" + topic + R"("]}})");
        read(session);
        return session;
    }
    void say(Session& session, const std::string& text) {
        hub_->receive(session, text, clock_.now());
    }

    Clock clock_;
    std::unique_ptr<Hub> hub_ = std::make_unique<Hub>(HubOptions{}, Random(3));
};

TEST_F(HubTest, AClientWithoutSubprotocolIsWelcomedAndGetsTheStateAtOnce) {
    join();
    Session& session = hub_->open(Dialect::kLegacy, clock_.now());
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("notification", "system.status"));
    const Object& data = messages[0].at("data").as_object();
    EXPECT_EQ(data.at("client_id").as_string().size(), 36u);
    EXPECT_EQ(data.at("subscriptions").as_array().size(), 8u);
    EXPECT_EQ(messages[1].at("data").as_object().at("stale"), false);
}

TEST_F(HubTest, HelloListsTheSourcesAndNothingElseComesUnasked) {
    join();
    Session& session = hub_->open(Dialect::kV1, clock_.now());
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("hello"));
    const Object& data = messages[0].at("data").as_object();
    EXPECT_EQ(data.at("protocol"), 1);
    EXPECT_EQ(data.at("epoch").as_string(), std::string_view(kEpoch));
    EXPECT_EQ(data.at("sources").as_array().at(0).at("quality"), "live");
    apply(value({.seq = 2}, clock_.now()));
    EXPECT_THAT(types(session), IsEmpty());
}

TEST_F(HubTest, SubscribeIsAnsweredPerTopicAndExactlyCountFramesFollow) {
    join();
    Session& session = hub_->open(Dialect::kV1, clock_.now());
    read(session);
    say(session,
        R"({"type":"subscribe","id":7,"data":{"types":["system.status","rpc_error","nobody.knows"]}})");
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("subscribed", "system.status"));
    EXPECT_EQ(messages[0].at("id"), 7);
    const Object& topics = messages[0].at("data").at("topics").as_object();
    EXPECT_EQ(topics.at("system.status").at("result"), "snapshot");
    EXPECT_EQ(topics.at("system.status").at("count"), 1);
    EXPECT_EQ(topics.at("rpc_error").at("result"), "live");
    EXPECT_EQ(topics.at("nobody.knows").at("result"), "unknown");
    EXPECT_EQ(messages[1].at("replay"), true);
}

TEST_F(HubTest, AWishToResumeThatIsNotUnderstoodIsAnsweredWithASnapshotThatSaysSo) {
    join();
    Session& session = hub_->open(Dialect::kV1, clock_.now());
    read(session);
    say(session, R"({"type":"subscribe","data":{"types":["system.status"],"resume":{"pos":1}}})");
    const auto messages = read(session);
    EXPECT_EQ(messages[0].at("data").at("topics").at("system.status").at("cause"), "bad_cursor");
}

TEST_F(HubTest, AStarSubscribesToEverythingOnce) {
    join();
    Session& session = v1("*");
    say(session, R"({"type":"subscribe","types":["system.status"]})");
    read(session);
    apply(value({.seq = 2}, clock_.now()));
    apply(event({.topic = "new.topic", .seq = 1}, clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("system.status", "new.topic"));
    say(session, R"({"type":"unsubscribe","types":["*"]})");
    apply(value({.seq = 3}, clock_.now()));
    apply(event({.topic = "new.topic", .seq = 2}, clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("system.status"));
}

TEST_F(HubTest, UnderscoresStandForDotsOnlyWhereThatIsATopic) {
    join();
    Session& session = legacy();
    say(session, R"({"type":"unsubscribe","types":["system_status","rpc_error"]})");
    EXPECT_EQ(session.subscriptions().count("system.status"), 0u);
    EXPECT_EQ(session.subscriptions().count("rpc_error"), 0u);
    say(session, R"({"type":"subscribe","subscriptions":["agent_task_completed","my_own",
                    "circuit_breaker_half_open","dead_letter_queued"]})");
    EXPECT_EQ(session.subscriptions().count("agent.task_completed"), 1u);
    EXPECT_EQ(session.subscriptions().count("circuit_breaker.half_open"), 1u);
    EXPECT_EQ(session.subscriptions().count("dead_letter.queued"), 1u);
    EXPECT_EQ(session.subscriptions().count("my_own"), 1u);
}

TEST_F(HubTest, APingIsAnsweredAndABadMessageIsNoReasonToClose) {
    Session& session = legacy();
    say(session, R"({"type":"ping","id":7})");
    say(session, "{invalid json");
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("pong", "error"));
    EXPECT_FALSE(messages[0].contains("id"));
    EXPECT_FALSE(messages[0].contains("data"));
    EXPECT_FALSE(session.closing());
}

TEST_F(HubTest, TooManyMessagesAreRefusedWithTheirIdAndWhoGoesOnIsClosed) {
    make_hub({.legacy_origin = {}, .queue = {}, .messages_per_second = 5});
    Session& session = v1();
    Session& other = v1();
    const auto ping = [&](Session& from) {
        say(from, R"({"type":"ping","id":3})");
        const auto answers = read(from);
        return answers.empty() ? Object{} : answers.front();
    };
    for (int i = 1; i < 10; ++i) {  // Its subscribe was one, too.
        ASSERT_EQ(ping(session).at("type"), "pong") << i;
    }
    for (int i = 0; i < 10; ++i) {
        const Object error = ping(session);
        ASSERT_EQ(error.at("type"), "error") << i;
        EXPECT_EQ(error.at("id"), 3);
        EXPECT_EQ(error.at("data").at("code"), 4103);
        EXPECT_EQ(error.at("data").at("temporary"), true);
    }
    EXPECT_FALSE(session.closing().has_value());
    EXPECT_EQ(hub_->counters().over_rate, 10U);
    EXPECT_EQ(ping(session).at("type"), "goodbye");
    EXPECT_EQ(session.closing()->code, kCloseRateLimited);
    EXPECT_EQ(hub_->counters().floods, 1U);
    EXPECT_EQ(ping(other).at("type"), "pong");
}

TEST_F(HubTest, WhoWaitsAfterTheErrorIsServedAgain) {
    make_hub({.legacy_origin = {}, .queue = {}, .messages_per_second = 5});
    Session& session = v1();
    for (int i = 0; i < 15; ++i) {
        say(session, R"({"type":"ping"})");
    }
    read(session);
    clock_.advance(Millis{2'000});
    say(session, R"({"type":"ping"})");
    EXPECT_THAT(types(session), ElementsAre("pong"));
}

TEST_F(HubTest, ControlFramesAndFragmentsCountWithMessages) {
    make_hub({.legacy_origin = {}, .queue = {}, .messages_per_second = 5});
    Session& session = v1();
    hub_->count_frames(session, 9, clock_.now());
    EXPECT_THAT(types(session), IsEmpty());
    say(session, R"({"type":"ping"})");
    EXPECT_THAT(types(session), ElementsAre("error"));
    hub_->count_frames(session, 1'000'000'000, clock_.now());
    ASSERT_TRUE(session.closing().has_value());
    EXPECT_EQ(session.closing()->code, kCloseRateLimited);
}

TEST_F(HubTest, AUserWithTooManyConnectionsIsToldSoByTheFirstMessage) {
    make_hub({.legacy_origin = {},
              .queue = {},
              .verify = [](std::string_view token,
                           Wall) { return Result<Grant>(Grant{.subject = std::string(token)}); },
              .clients_per_user_max = 2});
    const auto enter = [&](const std::string& subject) -> Session& {
        Session& session = hub_->open(Dialect::kV1, clock_.now(), std::nullopt);
        say(session, R"({"type":"auth","data":{"token":")" + subject + R"("}})");
        return session;
    };
    Session& first = enter("ann");
    enter("ann");
    EXPECT_THAT(types(enter("bob")), ElementsAre("hello", "authenticated"));
    Session& third = enter("ann");
    const auto answers = read(third);
    ASSERT_EQ(answers.size(), 1U);
    EXPECT_EQ(answers[0].at("data").at("code"), 4100);
    EXPECT_EQ(third.closing()->code, kCloseOverCapacity);
    EXPECT_EQ(hub_->counters().users_refused, 1U);
    EXPECT_EQ(hub_->occupancy().waiting, 1U) << "it never was let in";
    hub_->close(first);
    EXPECT_THAT(types(enter("ann")), ElementsAre("hello", "authenticated"));
    for (int i = 0; i < 5; ++i) {
        EXPECT_THAT(types(enter("")), ElementsAre("hello", "authenticated")) << "nobody's";
    }
}

TEST_F(HubTest, PolledStateIsRenderedForOldClientsAtTheReportJobsBeforeTheirSummary) {
    join();
    Session& session = legacy();
    const Make job{
        .topic = "compression.update", .key = "j", .poll = "jobs", .json = R"({"job_id":"j"})"};
    const Make summary{
        .topic = "compression.update", .poll = "jobs", .json = R"({"jobs":[]})", .seq = 2};
    poll(job, 1, live(clock_.now()), {{"j", ""}});
    apply(value(summary, clock_.now()));
    apply(value(job, clock_.now()));
    EXPECT_THAT(types(session), IsEmpty());
    poll(job, 2, live(clock_.now()), {{"j", ""}});
    const auto messages = read(session);
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_EQ(messages[0].at("data").at("job_id"), "j");
    EXPECT_TRUE(messages[1].at("data").as_object().contains("jobs"));
}

TEST_F(HubTest, AnUnchangedAnswerIsRenderedAgainForOldClientsAndIsATickForNewOnes) {
    join();
    Session& old = legacy();
    Session& session = v1();
    clock_.advance(Millis{5'000});
    poll({}, 2, live(clock_.now()));
    EXPECT_THAT(types(old), ElementsAre("system.status"));
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("tick"));
    EXPECT_EQ(messages[0].at("age_ms"), 0);
    EXPECT_EQ(messages[0].at("data").at("poll"), "system.status");
}

TEST_F(HubTest, AValueWithItsReportIsNoTick) {
    join();
    Session& session = v1();
    clock_.advance(Millis{5'000});
    apply(value({.seq = 2}, clock_.now()));
    poll({}, 2, live(clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("system.status"));
    clock_.advance(Millis{5'000});
    poll({}, 3, live(clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("tick"));
}

TEST_F(HubTest, AValueWhoseReportWasLostLeavesTheNextAnswerItsTick) {
    join();
    Session& session = v1();
    clock_.advance(Millis{5'000});
    apply(value({.seq = 2}, clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("system.status"));
    clock_.advance(Millis{5'000});
    poll({}, 3, live(clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("tick"));
}

TEST_F(HubTest, AJobThatEndedAfterAReportLeavesTheNextAnswerItsTick) {
    const Make summary{.topic = "compression.update", .poll = "compression.queue.running"};
    Make job = summary;
    job.key = "j";
    job.seq = 2;
    apply(snapshot(1, {}, {poll_state(summary, 1, live(clock_.now()), {{"j", ""}})},
                   {value(summary, clock_.now()), value(job, clock_.now())}));
    apply(Upstream::UplinkChange{true});
    Session& session = v1("compression.update");
    clock_.advance(Millis{5'000});
    Make fewer = summary;
    fewer.seq = 3;
    apply(value(fewer, clock_.now()));
    poll(summary, 2, live(clock_.now()), {{""}});
    job.seq = 4;
    job.final = true;
    apply(value(job, clock_.now()));
    EXPECT_THAT(types(session), ElementsAre("compression.update", "compression.update"));
    clock_.advance(Millis{5'000});
    poll(summary, 3, live(clock_.now()), {{""}});
    EXPECT_THAT(types(session), ElementsAre("tick"));
}

TEST_F(HubTest, AChangeOfQualityIsToldAtOnceAndOnce) {
    join();
    Session& old = legacy();
    Session& session = v1();
    const Now good = clock_.now();
    clock_.advance(Millis{5'000});
    apply(transition({.seq = 2}, stale(good, "RPC_DISCONNECT"), clock_.now()));
    poll({}, 2, stale(good, "RPC_DISCONNECT"));
    wait(Millis{250});
    const auto rendered = read(old);
    ASSERT_THAT(types(rendered), ElementsAre("system.status"));
    EXPECT_EQ(rendered[0].at("data").at("stale"), true);
    EXPECT_EQ(rendered[0].at("data").at("error_code"), "RPC_DISCONNECT");
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition"));
    EXPECT_EQ(told[0].at("quality"), "stale");
    EXPECT_EQ(told[0].at("age_ms"), 5'000);
}

TEST_F(HubTest, ATransitionWithoutAReportIsRenderedWithinItsBound) {
    join();
    Session& old = legacy();
    apply(transition({.seq = 2}, stale(clock_.now(), "POLL_SILENT"), clock_.now()));
    EXPECT_THAT(types(old), IsEmpty());
    wait(Millis{250});
    EXPECT_THAT(types(old), ElementsAre("system.status"));
}

TEST_F(HubTest, StaleCopiesGoOnAtThePollCadenceWhenReportsStop) {
    join();
    Session& old = legacy();
    const Now good = clock_.now();
    apply(transition({.seq = 2}, stale(good, "PRODUCER_SILENT"), clock_.now()));
    wait(Millis{1'000});
    read(old);
    wait(Millis{60'000});
    const auto messages = read(old);
    const auto copies = std::count_if(messages.begin(), messages.end(), [](const Object& message) {
        return message.at("type") == "system.status" && message.at("data").at("stale") == true;
    });
    EXPECT_GE(copies, 11);
    EXPECT_LE(copies, 13);
}

TEST_F(HubTest, WhileALivePollIsOnlyLateNothingIsRepeated) {
    join();
    wait(Millis{100});
    Session& old = legacy();
    wait(Millis{4'900});
    wait(Millis{3'000});
    EXPECT_THAT(types(old), ElementsAre("heartbeat"));
}

TEST_F(HubTest, WithoutAValueOldClientsAreToldNothing) {
    apply(snapshot(1, {}, {poll_state({}, 1, [] {
                       Age age;
                       age.quality = Quality::kDown;
                       age.reason = "RPC_DISCONNECT";
                       return age;
                   }())}));
    Session& session = hub_->open(Dialect::kLegacy, clock_.now());
    EXPECT_THAT(types(session), ElementsAre("notification"));
}

TEST_F(HubTest, WithoutTheBrokerEverySessionIsToldOnceAndToldBack) {
    join();
    Session& old = legacy();
    Session& session = v1();
    apply(Upstream::UplinkChange{false});
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition"));
    EXPECT_EQ(told[0].at("reason"), "BROKER_UNREACHABLE");
    EXPECT_EQ(told[0].at("source"), "uplink");
    const auto rendered = read(old);
    ASSERT_THAT(types(rendered), ElementsAre("system.status"));
    EXPECT_EQ(rendered[0].at("data").at("error_code"), "BROKER_UNREACHABLE");
    apply(Upstream::UplinkChange{true});
    EXPECT_EQ(read(session).at(0).at("quality"), "live");
    EXPECT_EQ(read(old).at(0).at("data").at("stale"), false);
}

TEST_F(HubTest, OldClientsSeeTheStateOfOneOriginAndTheEventsOfAll) {
    join();
    Session& old = legacy();
    say(old, R"({"type":"subscribe","types":["my.state"]})");
    apply(value({.topic = "my.state", .poll = "", .origin = "other"}, clock_.now()));
    apply(value({.topic = "my.state", .poll = ""}, clock_.now()));
    apply(event({.topic = "rpc_error", .origin = "other"}, clock_.now()));
    const auto messages = read(old);
    ASSERT_THAT(types(messages), ElementsAre("my.state", "rpc_error"));
    EXPECT_EQ(messages[0].at("origin"), "nas");
}

TEST_F(HubTest, OldClientsSeeTheOriginThatTheBrokerNamesFirstNotTheOneThatIsHeardFirst) {
    apply(snapshot(1, {}));
    apply(Upstream::UplinkChange{true});
    Session& old = legacy();
    apply(value({.origin = "late"}, clock_.now()));
    poll({.origin = "late"}, 1, live(clock_.now()));
    apply(value({}, clock_.now()));
    poll({}, 1, live(clock_.now()));
    apply(Upstream::FirstOrigin{"nas"});
    apply(Upstream::FirstOrigin{"late"});  // Not while there is one.
    wait(Millis{100});
    const auto messages = read(old);
    ASSERT_THAT(types(messages), ElementsAre("system.status"));
    EXPECT_EQ(messages[0].at("origin"), "nas");
}

TEST_F(HubTest, AFrameIsBuiltOnceAndShared) {
    join();
    std::vector<Session*> sessions;
    for (int i = 0; i < 100; ++i) {
        sessions.push_back(&v1());
    }
    const auto before = hub_->counters().encodes;
    apply(value({.seq = 2}, clock_.now()));
    EXPECT_EQ(hub_->counters().encodes, before + 1);
    EXPECT_EQ(sessions[0]->take(1, clock_.now())[0].get(),
              sessions[99]->take(1, clock_.now())[0].get());
}

TEST_F(HubTest, AHeartbeatComesWhenNothingWasSentForFiveSeconds) {
    Session& old = legacy();
    Session& session = v1();
    wait(Millis{4'900});
    EXPECT_THAT(types(old), IsEmpty());
    wait(Millis{700});
    EXPECT_THAT(types(old), ElementsAre("heartbeat"));
    EXPECT_THAT(types(session), ElementsAre("heartbeat"));
    wait(Millis{4'000});
    EXPECT_THAT(types(old), IsEmpty());
}

TEST_F(HubTest, AStalledClientStaysWithinItsBoundAndNeverDelaysAnother) {
    HubOptions options;
    options.queue.bytes_max = 64u << 10;
    make_hub(options);
    join();
    Session& stalled = v1("burst");
    Session& old = legacy();
    Session& reader = v1("burst");
    const std::string json = R"({"x":")" + std::string(1'000, 'x') + R"("})";
    std::size_t received = 0;
    for (std::uint64_t seq = 1; seq <= 1'000; ++seq) {
        apply(event({.topic = "burst", .json = json, .seq = seq}, clock_.now()));
        EXPECT_LE(stalled.queued_bytes(), 64u << 10);
        const auto now = read(reader);
        received += now.size();
        if (!now.empty()) {
            EXPECT_EQ(now.back().at("seq"), seq);
        }
    }
    EXPECT_EQ(received, 1'000u);
    ASSERT_TRUE(stalled.closing());
    EXPECT_EQ(stalled.closing()->code, kCloseSlowConsumer);
    const auto farewell = read(stalled);
    ASSERT_THAT(types(farewell), ElementsAre("goodbye"));
    EXPECT_EQ(farewell[0].at("data").at("code"), kCloseSlowConsumer);
    const auto told = read(old);
    ASSERT_THAT(types(told), ElementsAre("connection_error"));
    EXPECT_EQ(told[0].at("data").at("client_id").as_string(),
              std::string_view(stalled.client_id()));
    EXPECT_EQ(told[0].at("data").at("reason"), "buffer_full");
    EXPECT_EQ(told[0].at("data").at("error_code"), "CONNECTION_DROP");
}

TEST_F(HubTest, WhatCannotBecomeJsonIsSkippedAndTheFeedGoesOn) {
    join();
    Session& session = v1();
    Message bad = value({.seq = 2}, clock_.now());
    bad.data = std::make_shared<const std::string>("\xc1");
    apply(bad);
    apply(value({.seq = 3}, clock_.now()));
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("skipped", "system.status"));
    EXPECT_EQ(messages[0].at("data").at("why"), "not_encodable");
    EXPECT_EQ(messages[0].at("data").at("key"), "") << "what the client holds of it is old";
}

TEST_F(HubTest, WhatIsLargerThanAClientsQueueIsSkippedClosesNobodyAndTheFeedGoesOn) {
    HubOptions options;
    options.queue.bytes_max = 2'000;
    make_hub(std::move(options));
    join();
    Session& session = v1();
    Session& star = v1("*");
    Session& old = legacy();
    Message large = value({.seq = 2}, clock_.now());
    large.data = std::make_shared<const std::string>(std::string("\x81\xa1n\xda\x0b\xb8", 6) +
                                                     std::string(3'000, '\n'));
    apply(large);
    poll({}, 2, live(clock_.now()));
    for (Session* each : {&session, &star}) {
        const auto messages = read(*each);
        ASSERT_THAT(types(messages), ::testing::Contains("skipped"));
        const Object& data = messages[0].at("data").as_object();
        EXPECT_EQ(data.at("why"), "too_large");
        EXPECT_EQ(data.at("from"), 2);
        EXPECT_EQ(data.at("key"), "");
        EXPECT_FALSE(each->closing());
    }
    wait(Millis{1'000});
    EXPECT_FALSE(old.closing());
    EXPECT_THAT(types(old), ::testing::Not(::testing::Contains("system.status")));
    EXPECT_GT(hub_->counters().too_large, 0u);
    EXPECT_EQ(hub_->counters().slow_closed, 0u);
    EXPECT_NE(hub_->cache().find("nas", "system.status", ""), nullptr) << "for REST";

    // Nor does the answer to a subscription count it.
    Session& late = hub_->open(Dialect::kV1, clock_.now());
    read(late);
    say(late, R"({"type":"subscribe","data":{"types":["system.status"]}})");
    const auto answer = read(late);
    ASSERT_THAT(types(answer), ElementsAre("subscribed", "skipped"));
    const Object& topics = answer[0].at("data").at("topics").as_object();
    EXPECT_EQ(topics.at("system.status").at("count"), 0);
    EXPECT_EQ(answer[1].at("data").at("why"), "too_large");
    EXPECT_THAT(types(hub_->open(Dialect::kLegacy, clock_.now())), ElementsAre("notification"));

    apply(value({.seq = 3}, clock_.now()));
    EXPECT_THAT(types(session), ::testing::Contains("system.status"));
}

TEST_F(HubTest, ANewSnapshotIsTheAnswerToEverySubscriptionAgain) {
    join();
    Session& session = v1();
    apply(snapshot(2, {}, {poll_state({}, 1, live(clock_.now()))},
                   {value({.seq = 9}, clock_.now())}, "another"));
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("subscribed", "system.status"));
    EXPECT_EQ(messages[0].at("data").at("topics").at("system.status").at("cause"), "new_epoch");
}

/// What clients without a subprotocol are told where the edge itself has missed something.
class HubGoneTest : public HubTest {
 protected:
    /// An edge that has shown a job to an old client.
    Session& shown() {
        apply(snapshot(1, {{"nas", kJobs.topic, 4}}, {jobs(1, {"a", "b"})},
                       {job("a", 3), job("b", 4)}));
        apply(Upstream::UplinkChange{true});
        return legacy();
    }
    [[nodiscard]] Message job(const std::string& key, std::uint64_t seq,
                              const std::string& status = "running", bool final = false) const {
        Make made = kJobs;
        made.key = key;
        made.seq = seq;
        made.final = final;
        made.json = R"({"job_id":")" + key + R"(","progress":5,"status":")" + status + R"("})";
        return value(made, clock_.now());
    }
    [[nodiscard]] PollState jobs(std::uint64_t seq, std::vector<std::string> keys) const {
        return poll_state(kJobs, seq, live(clock_.now()), std::move(keys));
    }
    /// The edge has been away for as long as the streams went on to `seq`: a alone is left.
    void rejoin(std::uint64_t seq, const std::string& epoch = kEpoch) {
        std::vector<Message> left;
        if (epoch == kEpoch) {
            left.push_back(job("a", 3));
        }
        apply(snapshot(2, {{"nas", kJobs.topic, seq}}, {jobs(9, {"a"})}, left, epoch));
    }
    std::vector<std::string> ends(Session& session) {
        std::vector<std::string> ends;
        for (const Object& message : read(session)) {
            if (message.contains("final")) {
                const Object& data = message.at("data").as_object();
                ends.push_back(std::string(data.at("job_id").as_string()) + " " +
                               std::string(data.at("status").as_string()));
            }
        }
        return ends;
    }
    void answer(std::vector<Message> items) {
        protocol::Range range;
        range.origin = "nas";
        range.topic = kJobs.topic;
        range.epoch = kEpoch;
        range.range = {5, 9};
        range.items = std::move(items);
        apply(std::move(range));
    }

    const Make kJobs{.topic = "compression.update", .poll = "compression.queue.running"};
};

TEST_F(HubGoneTest, HowAJobEndedThatEndedWhileTheEdgeWasAwayIsAskedOfTheLogAndToldOnce) {
    Session& session = shown();
    rejoin(9);
    const auto requests = hub_->take_requests();
    ASSERT_EQ(requests.size(), 1u);
    const auto& ask = std::get<protocol::Ask>(requests[0]);
    EXPECT_EQ(ask.topic, kJobs.topic);
    EXPECT_EQ(ask.range, (sequence::Range{5, 9})) << "what came after the value that was shown";
    EXPECT_THAT(ends(session), IsEmpty());
    answer({job("b", 5), job("other", 6, "failed", true), job("b", 7, "completed", true)});
    EXPECT_THAT(ends(session), ElementsAre("b completed"));
    answer({job("b", 7, "completed", true)});
    clock_.advance(Seconds{10});
    poll(kJobs, 10, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), IsEmpty());
}

TEST_F(HubGoneTest, AnEndThatTheLogDoesNotSayIsToldAsUnknownOnce) {
    Session& session = shown();
    rejoin(9);
    poll(kJobs, 10, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), IsEmpty()) << "the log may answer yet";
    clock_.advance(Hub::kAnswerMax);
    poll(kJobs, 11, stale(clock_.now(), "RPC_DISCONNECT"), {{"a"}});
    const auto messages = read(session);
    ASSERT_FALSE(messages.empty());
    EXPECT_EQ(messages[0].at("data").at("status"), "unknown");
    EXPECT_EQ(messages[0].at("data").at("progress"), 5);
    EXPECT_EQ(messages[0].at("reason"), "BROKER_UNREACHABLE");
    EXPECT_EQ(messages[0].at("final"), true);
    EXPECT_FALSE(messages[0].contains("pos")) << "the log has it nowhere";
    answer({job("b", 7, "completed", true)});
    poll(kJobs, 12, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), IsEmpty());
}

TEST_F(HubGoneTest, WhatAnotherLogDoesNotHoldHasEndedOnceACompleteListLacksIt) {
    Session& session = shown();
    apply(snapshot(2, {}, {}, {}, "another"));
    EXPECT_THAT(hub_->take_requests(), IsEmpty()) << "the positions of this log are others";
    apply(Upstream::FirstOrigin{"nas"});
    clock_.advance(Hub::kAnswerMax);
    PollState cut_off = jobs(1, {"x"});
    cut_off.report.complete = false;
    apply(Upstream::PollUpdate{cut_off});
    EXPECT_THAT(ends(session), IsEmpty());
    poll(kJobs, 2, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), ElementsAre("b unknown"));
    apply(job("a", 3));
    poll(kJobs, 3, live(clock_.now()), {});
    EXPECT_THAT(ends(session), IsEmpty()) << "it is known again: its end will be told";
}

TEST_F(HubGoneTest, AListFromBeforeAJobDoesNotSayThatItHasEnded) {
    apply(snapshot(1, {{"nas", kJobs.topic, 4}}, {jobs(1, {"a"})}, {job("a", 3)}));
    apply(Upstream::UplinkChange{true});
    Session& session = legacy();
    const PollState before = jobs(2, {"a"});
    clock_.advance(Seconds{1});
    apply(unlogged(job("b", 0), 4));
    // The broker starts again: what its disk refused is gone, and its newest list is the one
    // before.
    apply(snapshot(2, {{"nas", kJobs.topic, 4}}, {before}, {job("a", 3)}));
    clock_.advance(Hub::kAnswerMax);
    apply(Upstream::PollUpdate{before});
    EXPECT_THAT(ends(session), IsEmpty());
    poll(kJobs, 3, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), ElementsAre("b unknown"));
}

TEST_F(HubGoneTest, AnEndThatComesByItselfIsNotToldAgain) {
    Session& session = shown();
    apply(snapshot(2, {}, {}, {}, "another"));
    apply(Upstream::FirstOrigin{"nas"});
    apply(job("b", 5, "completed", true));
    EXPECT_THAT(ends(session), ElementsAre("b completed"));
    clock_.advance(Seconds{10});
    poll(kJobs, 10, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), IsEmpty());
}

TEST_F(HubGoneTest, WhereTheBrokerGoesBeforeTheEndIsKnownTheJobIsStaleToo) {
    Session& session = shown();
    rejoin(9);
    read(session);
    apply(Upstream::UplinkChange{false});
    std::vector<std::string> stale;
    for (const Object& message : read(session)) {
        if (message.at("type").as_string() == kJobs.topic &&
            message.at("reason") == "BROKER_UNREACHABLE") {
            stale.emplace_back(message.at("key").as_string());
        }
    }
    EXPECT_THAT(stale, ::testing::UnorderedElementsAre("a", "b"));
    apply(Upstream::UplinkChange{true});
    clock_.advance(Hub::kAnswerMax);
    poll(kJobs, 10, live(clock_.now()), {{"a"}});
    EXPECT_THAT(ends(session), ElementsAre("b unknown"));
}

TEST_F(HubGoneTest, ALongAbsenceCostsTheBrokerOnePageOfItsLog) {
    shown();
    rejoin(1'000'000);
    const auto requests = hub_->take_requests();
    ASSERT_EQ(requests.size(), 1u);
    EXPECT_EQ(std::get<protocol::Ask>(requests[0]).range,
              (sequence::Range{1'000'000 - 1'023, 1'000'000}));
}

TEST_F(HubTest, AValueOfAPollThatFailsAgainInTheSameWayDoesNotStayLive) {
    join();
    poll({}, 2, stale(clock_.now(), "RPC_DISCONNECT"));
    Session& session = v1();
    apply(value({.seq = 3}, clock_.now()));  // The report of its answer is lost.
    EXPECT_EQ(read(session)[0].at("quality"), "live");
    poll({}, 4, stale(clock_.now(), "RPC_DISCONNECT"));
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition"));
    EXPECT_EQ(told[0].at("reason"), "RPC_DISCONNECT");
    poll({}, 5, stale(clock_.now(), "RPC_DISCONNECT"));
    EXPECT_THAT(types(session), IsEmpty());
}

TEST_F(HubTest, AtTheEndEveryoneIsToldAndIsToBeClosed) {
    Session& old = legacy();
    Session& session = v1();
    hub_->drain(clock_.now().mono, Millis{0}, clock_.now());
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("goodbye"));
    EXPECT_EQ(messages[0].at("data").at("code"), kCloseDraining);
    EXPECT_EQ(session.closing()->code, kCloseDraining);
    EXPECT_THAT(types(old), IsEmpty());
    EXPECT_EQ(old.closing()->code, kCloseGoingAway);
    EXPECT_EQ(hub_->take_touched().size(), 2u);
}

TEST_F(HubTest, AnEdgeThatEndsServesEachClientUntilItsTurnHasCome) {
    join();
    std::vector<Session*> all;
    for (int i = 0; i < 100; ++i) {
        all.push_back(&v1());
    }
    const auto left = [&all] {
        return std::count_if(all.begin(), all.end(),
                             [](const Session* s) { return !s->closing(); });
    };
    const Mono from = clock_.now().mono + Millis{500};
    hub_->drain(from, Millis{1'000}, clock_.now());
    EXPECT_TRUE(hub_->draining());
    EXPECT_FALSE(hub_->closed(clock_.now().mono));
    EXPECT_EQ(left(), 100);
    EXPECT_LE(hub_->deadline(), from);
    apply(value({.seq = 2}, clock_.now()));
    EXPECT_THAT(types(*all[0]), ElementsAre("system.status"));
    std::vector<std::ptrdiff_t> course;
    for (clock_.advance(Millis{500}); left() > 0 && course.size() < 100;
         clock_.advance(Hub::kDrainStep)) {
        ASSERT_LE(hub_->deadline(), clock_.now().mono);
        hub_->on_timer(clock_.now());
        course.push_back(left());
        EXPECT_TRUE(std::is_partitioned(all.begin(), all.end(), [](const Session* s) {
            return s->closing().has_value();
        })) << "who came first goes first";
    }
    EXPECT_TRUE(hub_->closed(clock_.now().mono));
    ASSERT_EQ(course.size(), 51u);
    EXPECT_NEAR(static_cast<double>(course[25]), 50.0, 10.0);
}

TEST_F(HubTest, TheMoreClientsAnEdgeHasTheLongerTheirHintsAreSpreadWhenItEnds) {
    for (const std::size_t clients : {100u, 5'000u}) {
        make_hub({});
        std::vector<Session*> all;
        for (std::size_t i = 0; i < clients; ++i) {
            all.push_back(&v1());
            ++hub_->occupancy().clients;  // As the Wire counts them.
        }
        hub_->drain(clock_.now().mono, Millis{0}, clock_.now());
        std::vector<std::int64_t> hints;
        for (Session* session : all) {
            hints.push_back(read(*session).back().at("data").at("reconnect_in_ms").as_int64());
        }
        std::sort(hints.begin(), hints.end());
        const auto spread = std::max<std::int64_t>(2'000, static_cast<std::int64_t>(clients));
        EXPECT_GE(hints.front(), Hub::kReconnectHintMin.count());
        EXPECT_LE(hints.back(), spread + Hub::kReconnectHintMin.count());
        EXPECT_GT(hints[clients / 2], spread / 3);
    }
}

TEST_F(HubTest, AClosedSessionIsForgottenEverywhere) {
    join();
    Session& session = v1("*");
    Session& other = v1();
    hub_->close(session);
    hub_->close(other);
    apply(value({.seq = 2}, clock_.now()));
    EXPECT_EQ(hub_->sessions(), 0u);
    EXPECT_THAT(hub_->take_touched(), IsEmpty());
}

TEST_F(HubTest, HelloListsNoSourceWithoutAPollOrATopic) {
    join();
    poll({.topic = "", .poll = "undeclared"}, 1, live(clock_.now()));
    poll({.topic = "", .poll = ""}, 1, live(clock_.now()));
    apply(Upstream::PollUpdate{state_poll_state("mine", 1, live(clock_.now()))});
    Session& session = hub_->open(Dialect::kV1, clock_.now());
    const auto sources = read(session)[0].at("data").at("sources").as_array();
    ASSERT_EQ(sources.size(), 1u);
    EXPECT_EQ(sources[0].at("poll"), "system.status");
}

TEST_F(HubTest, WithAnotherLogTheOriginThatOldClientsSeeIsChosenAnew) {
    join();
    apply(snapshot(2, {}, {poll_state({.origin = "second"}, 1, live(clock_.now()))},
                   {value({.origin = "second"}, clock_.now())}, "another"));
    Session& session = hub_->open(Dialect::kLegacy, clock_.now());
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("notification", "system.status"));
    EXPECT_EQ(messages[1].at("origin"), "second");
}

TEST_F(HubTest, ThatHeadsVouchForStateIsToldOnceAHeartbeatAndNamesNoPoll) {
    join();
    Session& session = v1("mine");
    const Make made{.topic = "mine", .poll = state_poll("mine")};
    apply(value(made, clock_.now()));
    std::uint64_t seq = 0;
    for (int second = 0; second < 12; ++second) {
        clock_.advance(Seconds{1});
        apply(Upstream::PollUpdate{state_poll_state("mine", ++seq, live(clock_.now()))});
    }
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("mine", "tick", "tick", "tick"));
    EXPECT_FALSE(messages[0].contains("poll"));
    EXPECT_EQ(messages[1].at("data").at("poll"), "");
    EXPECT_EQ(messages[1].at("age_ms"), 0);
    Session& late = hub_->open(Dialect::kV1, clock_.now());
    read(late);
    say(late, R"({"type":"subscribe","data":{"types":["mine"]}})");
    EXPECT_EQ(read(late)[1].at("age_ms"), 0);
}

TEST_F(HubTest, ThatHeadsVouchForAKeyIsToldWhileAnotherKeyChanges) {
    join();
    Session& session = v1("mine");
    const auto put = [&](const std::string& key, std::uint64_t seq) {
        apply(value({.topic = "mine", .key = key, .poll = state_poll("mine"), .seq = seq},
                    clock_.now()));
    };
    put("still", 1);
    for (std::uint64_t second = 1; second <= 12; ++second) {
        clock_.advance(Seconds{1});
        put("moving", second + 1);
        apply(Upstream::PollUpdate{state_poll_state("mine", second, live(clock_.now()))});
    }
    const auto told = types(session);
    EXPECT_EQ(std::count(told.begin(), told.end(), "tick"), 3) << "once a heartbeat";
}

TEST_F(HubTest, WhenTheBrokerReturnsWhatAnEarlierInstanceLeftIsNotCalledLive) {
    join();
    for (const std::string key : {"left", "mine"}) {
        apply(value({.topic = "t", .key = key, .poll = state_poll("t")}, clock_.now()));
    }
    Session& session = v1("t");
    apply(Upstream::PollUpdate{state_poll_state("t", 1, live(clock_.now()), {{"mine"}})});
    const auto left = read(session);
    ASSERT_FALSE(left.empty());
    EXPECT_EQ(left[0].at("data").at("keys").as_array(), boost::json::array{"left"});
    EXPECT_EQ(left[0].at("reason"), "PRODUCER_SILENT");
    apply(Upstream::UplinkChange{false});
    read(session);
    apply(Upstream::UplinkChange{true});
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition", "transition"));
    EXPECT_EQ(told[0].at("data").at("keys").as_array(), boost::json::array{"mine"});
    EXPECT_EQ(told[0].at("quality"), "live");
    EXPECT_EQ(told[1].at("data").at("keys").as_array(), boost::json::array{"left"});
    EXPECT_EQ(told[1].at("quality"), "stale");
}

TEST_F(HubTest, AJobThatListsDoNotNameForLongIsToldStaleUntilOneNamesItAgain) {
    join();
    const Make job{.topic = "compression.update", .key = "j", .poll = "jobs"};
    const Make summary{.topic = "compression.update", .poll = "jobs", .seq = 2};
    std::uint64_t report = 0;
    const auto list = [&](std::vector<std::string> keys) {
        clock_.advance(Seconds{5});  // Its interval.
        poll(job, ++report, live(clock_.now()), std::move(keys));
    };
    poll(job, ++report, live(clock_.now()), {{"j", ""}});
    apply(value(job, clock_.now()));
    apply(value(summary, clock_.now()));
    list({"j", ""});
    Session& session = v1("compression.update");
    Session& old = legacy();
    list({""});
    EXPECT_THAT(types(session), ElementsAre("tick")) << "its end is asked for";
    read(old);
    list({""});
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition", "tick"));
    EXPECT_EQ(told[0].at("data").at("keys").as_array(), boost::json::array{"j"});
    EXPECT_EQ(told[0].at("quality"), "stale");
    EXPECT_EQ(told[0].at("reason"), "NOT_LISTED");
    EXPECT_EQ(told[0].at("source"), "engine");
    const auto rendered = read(old);
    ASSERT_EQ(rendered.size(), 2u);
    EXPECT_EQ(rendered[0].at("data").at("error_code"), "NOT_LISTED");
    EXPECT_EQ(rendered[0].at("age_ms"), 10'000);
    EXPECT_EQ(rendered[1].at("data").at("stale"), false);
    list({""});
    EXPECT_THAT(types(session), ElementsAre("tick")) << "it is told once";
    apply(Upstream::UplinkChange{false});
    read(session);
    apply(Upstream::UplinkChange{true});
    const auto back = read(session);
    ASSERT_THAT(types(back), ElementsAre("transition", "transition"));
    EXPECT_EQ(back[0].at("data").at("keys").as_array(), boost::json::array{""});
    EXPECT_EQ(back[0].at("quality"), "live");
    EXPECT_EQ(back[1].at("reason"), "NOT_LISTED");
    list({"j", ""});
    const auto listed = read(session);
    ASSERT_THAT(types(listed), ElementsAre("transition", "tick"));
    EXPECT_EQ(listed[0].at("data").at("keys").as_array(), boost::json::array{"j"});
    EXPECT_EQ(listed[0].at("quality"), "live");
}

/// The broker tells its transitions anew when the disk takes commits again, and no report follows.
TEST_F(HubTest, ATransitionThatIsToldAnewCallsNoUnlistedJobLive) {
    join();
    const Make job{.topic = "compression.update", .key = "j", .poll = "jobs"};
    const Make summary{.topic = "compression.update", .poll = "jobs", .seq = 2};
    apply(value(job, clock_.now()));
    apply(value(summary, clock_.now()));
    poll(job, 1, live(clock_.now()), {{"j", ""}});
    clock_.advance(Seconds{10});
    poll(job, 2, live(clock_.now()), {{""}});
    Session& session = v1("compression.update");
    Session& old = legacy();
    apply(transition({.topic = job.topic, .poll = job.poll, .seq = 3}, live(clock_.now()),
                     clock_.now()));
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition", "transition"));
    EXPECT_EQ(told[0].at("quality"), "live") << "it has its place in the stream";
    EXPECT_EQ(told[1].at("data").at("keys").as_array(), boost::json::array{"j"});
    EXPECT_EQ(told[1].at("quality"), "stale");
    EXPECT_EQ(told[1].at("reason"), "NOT_LISTED");
    wait(Seconds{1});
    const auto rendered = read(old);
    ASSERT_EQ(rendered.size(), 2u);
    EXPECT_EQ(rendered[0].at("data").at("error_code"), "NOT_LISTED");
    EXPECT_EQ(rendered[1].at("data").at("stale"), false);
}

TEST_F(HubTest, WhileAPollFailsItSaysWhyItsUnlistedKeysAreOldToo) {
    join();
    const Make job{.topic = "compression.update", .key = "j", .poll = "jobs"};
    apply(value(job, clock_.now()));
    const Now good = clock_.now();
    poll(job, 1, live(good), {{"j"}});
    clock_.advance(Seconds{60});
    Session& session = v1("compression.update");
    poll(job, 2, stale(good, "RPC_DISCONNECT"), std::vector<std::string>{});
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition"));
    EXPECT_EQ(told[0].at("reason"), "RPC_DISCONNECT");
}

TEST_F(HubTest, StateWhosePollNobodyHasNamedYetIsToldStaleToo) {
    join();
    Session& session = v1("mine");
    apply(value({.topic = "mine", .poll = state_poll("mine")}, clock_.now()));
    read(session);
    apply(Upstream::UplinkChange{false});
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition"));
    EXPECT_EQ(told[0].at("reason"), "BROKER_UNREACHABLE");
    wait(Seconds{60});
    EXPECT_THAT(types(session), ::testing::Each("heartbeat")) << "and then it is not repeated";
}

TEST_F(HubTest, AFirstValueWhoseReportDidNotComeAnyMoreIsStaleWithoutTheBrokerAndNotInitial) {
    apply(snapshot(1, {}, {poll_state({}, 0, Age{})}));
    apply(Upstream::UplinkChange{true});
    Session& session = v1();
    apply(value({}, clock_.now()));
    read(session);
    apply(Upstream::UplinkChange{false});
    const auto told = read(session);
    ASSERT_THAT(types(told), ElementsAre("transition"));
    EXPECT_EQ(told[0].at("quality"), "stale");
}

TEST_F(HubTest, ATransitionNeverTakesThePlaceOfAValueThatWaits) {
    HubOptions options;
    options.queue.bytes_max = 64u << 10;
    make_hub(options);
    join();
    Session& session = v1();
    const std::string json = R"({"x":")" + std::string(40'000, 'x') + R"("})";
    for (std::uint64_t round = 0; round < 4; ++round) {
        apply(value({.json = json, .seq = 2 + 3 * round}, clock_.now()));
        apply(transition({.seq = 3 + 3 * round}, stale(clock_.now(), "X"), clock_.now()));
        apply(transition({.seq = 4 + 3 * round}, live(clock_.now()), clock_.now()));
    }
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("skipped", "system.status", "skipped", "transition"));
    EXPECT_EQ(messages[1].at("seq"), 11);
    EXPECT_EQ(messages[3].at("quality"), "live");
}

TEST_F(HubTest, ALoggedValueThatIsNoNewsAnyMoreLeavesNoHole) {
    join();
    Session& session = v1();
    const Message late = value({.seq = 2}, clock_.now());
    clock_.advance(Seconds{5});
    apply(unlogged(value({.json = R"({"n":2})"}, clock_.now())));
    apply(late);
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("system.status", "skipped"));
    EXPECT_EQ(messages[1].at("data").at("why"), "superseded");
    EXPECT_EQ(*hub_->cache().find("nas", "system.status", "")->json, R"({"n":2})");
}

/// Tokens are "subject:seconds from the clock's start:topic,topic"; "bad" is bad, and "old"
/// expired.
class HubAccessTest : public HubTest {
 protected:
    HubAccessTest() {
        make_hub({.legacy_origin = {},
                  .queue = {},
                  .verify = [](std::string_view token, Wall) -> Result<Grant> {
                      if (token == "bad" || token == "old") {
                          return Error{token == "old" ? Errc::kTimeout : Errc::kInvalid, "no good"};
                      }
                      const std::size_t first = token.find(':');
                      const std::size_t second = token.find(':', first + 1);
                      const int seconds = std::stoi(std::string(token.substr(first + 1)));
                      return grant(std::string(token.substr(0, first)), seconds,
                                   std::string(token.substr(second + 1)));
                  },
                  .first_message_timeout = Millis{8'000}});
        join();
        apply(value({.topic = "agent.status", .poll = "agents", .seq = 1}, clock_.now()));
        poll({.topic = "agent.status", .poll = "agents"}, 1, live(clock_.now()));
    }
    static Grant grant(const std::string& subject, int seconds, const std::string& topics) {
        Grant made{.subject = subject, .everything = topics == "*", .topics = {}, .expires = {}};
        std::size_t at = 0;
        while (!made.everything && at < topics.size()) {
            const std::size_t end = std::min(topics.find(',', at), topics.size());
            made.topics.push_back(topics.substr(at, end - at));
            at = end + 1;
        }
        made.expires = Clock().now().wall + Seconds{seconds};
        return made;
    }
    Session& open(Dialect dialect, const std::string& topics, int seconds = 3'600) {
        return hub_->open(dialect, clock_.now(), grant("ann", seconds, topics));
    }
    Session& open_waiting(Dialect dialect = Dialect::kV1) {
        return hub_->open(dialect, clock_.now(), std::nullopt);
    }
    static boost::json::value in(int seconds) {
        return boost::json::value_from(to_rfc3339(Clock().now().wall + Seconds{seconds}));
    }
    static std::string auth(const std::string& token) {
        return R"({"type":"auth","id":9,"data":{"token":")" + token + R"("}})";
    }
    static std::vector<std::string> topics_of(const boost::json::value& sources) {
        std::vector<std::string> topics;
        for (const auto& source : sources.as_array()) {
            topics.emplace_back(source.at("topic").as_string());
        }
        return topics;
    }
};

TEST_F(HubAccessTest, WithoutATokenNothingAtAllIsSentUntilOneHasCome) {
    Session& session = open_waiting();
    Session& old = open_waiting(Dialect::kLegacy);
    EXPECT_EQ(hub_->occupancy().waiting, 2u);
    apply(value({.seq = 2}, clock_.now()));
    apply(snapshot(2, {}, {poll_state({}, 1, live(clock_.now()))},
                   {value({.seq = 9}, clock_.now())}, "another"));
    wait(Millis{7'400});
    EXPECT_THAT(read(session), IsEmpty());
    EXPECT_THAT(read(old), IsEmpty());
    say(session, auth("ann:60:*"));
    say(old, auth("bob:60:*"));
    EXPECT_EQ(hub_->occupancy().waiting, 0u);
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("hello", "authenticated"));
    EXPECT_EQ(messages[0].at("data").at("expires"), in(60));
    EXPECT_EQ(messages[1].at("data").at("expires"), in(60));
    EXPECT_EQ(messages[1].at("id"), 9);
    EXPECT_THAT(types(old), ElementsAre("notification", "system.status"));
    wait(Seconds{10});
    EXPECT_FALSE(session.closing()) << "the time for the first message is over for good";
}

TEST_F(HubAccessTest, WhoSendsNoTokenInTimeIsToldAndClosed) {
    Session& session = open_waiting();
    wait(Millis{7'900});
    EXPECT_FALSE(session.closing());
    wait(Millis{700});
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("error"));
    EXPECT_EQ(messages[0].at("data").at("code"), 4300);
    ASSERT_TRUE(session.closing());
    EXPECT_EQ(session.closing()->code, 4300);
    hub_->close(session);
    EXPECT_EQ(hub_->occupancy().waiting, 0u);
}

TEST_F(HubAccessTest, AFirstMessageThatIsNoTokenEndsIt) {
    for (const std::string first :
         {R"({"type":"subscribe","data":{"types":["*"]}})", R"({"type":"ping"})", "{",
          R"({"type":"auth"})", R"({"type":"auth","data":{"token":7}})"}) {
        Session& session = open_waiting();
        say(session, first);
        EXPECT_THAT(types(session), ElementsAre("error")) << first;
        ASSERT_TRUE(session.closing()) << first;
        EXPECT_EQ(session.closing()->code, kCloseAuthenticate);
    }
}

TEST_F(HubAccessTest, AFirstTokenThatIsBadEndsItWithTheCodeThatSaysSo) {
    for (const auto& [token, code] : {std::pair{"bad", 4001}, std::pair{"old", 4301}}) {
        Session& session = open_waiting();
        say(session, auth(token));
        const auto messages = read(session);
        ASSERT_THAT(types(messages), ElementsAre("error"));
        EXPECT_EQ(messages[0].at("data").at("code"), code);
        ASSERT_TRUE(session.closing());
        EXPECT_EQ(session.closing()->code, code);
    }
    EXPECT_EQ(hub_->counters().unauthorized, 2u);
}

TEST_F(HubAccessTest, OneThatWaitsIsClosedWithoutAWordWhenTheEdgeEnds) {
    Session& session = open_waiting();
    hub_->drain(clock_.now().mono, Millis{0}, clock_.now());
    EXPECT_THAT(read(session), IsEmpty());
    EXPECT_EQ(session.closing()->code, session.v1() ? kCloseDraining : kCloseGoingAway);
}

TEST_F(HubAccessTest, TheWelcomeListsAndSendsOnlyWhatIsAllowed) {
    Session& session = open(Dialect::kLegacy, "agent.*,system.statu");
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("notification", "agent.status"));
    EXPECT_EQ(messages[0].at("data").at("subscriptions").as_array(),
              (boost::json::array{"agent.status", "heartbeat"}));
    poll({}, 2, live(clock_.now()));
    apply(event({.topic = "rpc_error"}, clock_.now()));
    EXPECT_THAT(read(session), IsEmpty());
}

TEST_F(HubAccessTest, HelloTellsOfNoSourceOfADeniedTopic) {
    EXPECT_THAT(topics_of(read(open(Dialect::kV1, "agent.*"))[0].at("data").at("sources")),
                ElementsAre("agent.status"));
    EXPECT_EQ(hub_->sources(grant("x", 1, "agent.*")).size(), 1u);
    EXPECT_EQ(hub_->sources({}).size(), 2u);
}

TEST_F(HubAccessTest, ADeniedTopicIsAnsweredPerTopicAndNothingOfItFollows) {
    Session& session = open(Dialect::kV1, "agent.*");
    read(session);
    say(session,
        R"({"type":"subscribe","id":7,"data":{"types":["system_status","agent.status","my.own"]}})");
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("subscribed", "agent.status"));
    const Object& topics = messages[0].at("data").at("topics").as_object();
    EXPECT_EQ(topics.at("system_status").at("result"), "denied")
        << "by the name that was asked for: which one is known is not told";
    EXPECT_EQ(topics.at("my.own").at("result"), "denied");
    EXPECT_EQ(topics.at("agent.status").at("result"), "snapshot");
    apply(value({.seq = 2}, clock_.now()));
    apply(transition({.seq = 3}, stale(clock_.now(), "X"), clock_.now()));
    poll({}, 2, live(clock_.now()));
    EXPECT_THAT(read(session), IsEmpty());
}

TEST_F(HubAccessTest, AnOldClientIsToldOfEachDeniedTopicByAnError) {
    Session& session = open(Dialect::kLegacy, "agent.*");
    read(session);
    say(session, R"({"type":"subscribe","types":["system.status","agent.started"]})");
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("error"));
    EXPECT_EQ(messages[0].at("data").at("code"), 4003);
    EXPECT_EQ(messages[0].at("data").at("name"), "denied");
    EXPECT_EQ(messages[0].at("data").at("topic"), "system.status");
    EXPECT_EQ(session.subscriptions().count("system.status"), 0u);
    EXPECT_EQ(session.subscriptions().count("agent.started"), 1u);
}

TEST_F(HubAccessTest, AStarGivesWhatTheGrantAllowsInTheSnapshotAndLive) {
    Session& session = open(Dialect::kV1, "agent.*");
    read(session);
    say(session, R"({"type":"subscribe","data":{"types":["*"]}})");
    const auto snapshot = read(session);
    ASSERT_THAT(types(snapshot), ElementsAre("subscribed", "agent.status"));
    EXPECT_EQ(snapshot[0].at("data").at("topics").at("*").at("count"), 1);
    apply(value({.seq = 2}, clock_.now()));
    apply(event({.topic = "agent.started"}, clock_.now()));
    apply(event({.topic = "rpc_error"}, clock_.now()));
    apply(transition({.seq = 3}, stale(clock_.now(), "X"), clock_.now()));
    clock_.advance(Millis{5'000});
    poll({}, 2, live(clock_.now()));
    poll({.topic = "agent.status", .poll = "agents"}, 2, live(clock_.now()));
    Message bad = value({.seq = 4}, clock_.now());
    bad.data = std::make_shared<const std::string>("\xc1");
    apply(bad);
    apply(Upstream::Lost{"nas", "system.status", {5, 6}});
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("agent.started", "tick"));
    EXPECT_EQ(messages[1].at("data").at("topic"), "agent.status");
    apply(Upstream::UplinkChange{false});
    for (const Object& each : read(session)) {
        EXPECT_EQ(each.at("data").at("topic"), "agent.status");
    }
}

TEST_F(HubAccessTest, ALiveSessionIsClosedSoonAfterItsTokenHasExpired) {
    Session& session = open(Dialect::kV1, "*", 10);
    Session& old = open(Dialect::kLegacy, "*", 10);
    wait(Millis{9'900});
    EXPECT_FALSE(session.closing());
    read(session);
    read(old);
    wait(Millis{700});
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("goodbye"));
    EXPECT_EQ(messages[0].at("data").at("code"), 4301);
    for (const Session* each : {&session, &old}) {
        ASSERT_TRUE(each->closing());
        EXPECT_EQ(each->closing()->code, 4301);
        EXPECT_EQ(each->closing()->reason, "token_expired");
    }
    EXPECT_EQ(hub_->counters().expired, 2u);
}

TEST_F(HubAccessTest, AWallClockThatIsSetBackDoesNotMakeATokenLastLonger) {
    Session& session = open(Dialect::kV1, "*", 10);
    const auto at = [&](int mono, int wall) {
        hub_->on_timer({clock_.now().mono + Seconds{mono}, clock_.now().wall + Seconds{wall}});
        return session.closing().has_value();
    };
    EXPECT_FALSE(at(9, -1'000));
    EXPECT_TRUE(at(11, -1'000));
}

TEST_F(HubAccessTest, AWallClockThatIsSetForwardEndsATokenThatHasExpiredByIt) {
    Session& session = open(Dialect::kV1, "*", 10);
    hub_->on_timer({clock_.now().mono + Seconds{1}, clock_.now().wall + Seconds{11}});
    EXPECT_TRUE(session.closing());
}

TEST_F(HubAccessTest, AFreshTokenOfTheSameSubjectExtendsALiveSession) {
    Session& session = open(Dialect::kV1, "*", 10);
    read(session);
    say(session, auth("ann:30:*"));
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("authenticated"));
    EXPECT_EQ(messages[0].at("data").at("expires"), in(30));
    wait(Seconds{29});
    EXPECT_FALSE(session.closing());
    wait(Seconds{2});
    EXPECT_TRUE(session.closing());
}

TEST_F(HubAccessTest, ATokenOfSomebodyElseOrABadOneChangesNothing) {
    Session& session = open(Dialect::kV1, "agent.*", 10);
    read(session);
    for (const char* token : {"eve:3600:*", "bad", "old"}) {
        say(session, auth(token));
        EXPECT_THAT(types(session), ElementsAre("error")) << token;
        EXPECT_FALSE(session.closing()) << token;
    }
    EXPECT_FALSE(session.grant->everything);
    wait(Seconds{11});
    EXPECT_TRUE(session.closing());
}

TEST_F(HubAccessTest, WhatAFreshTokenDoesNotAllowAnyMoreEndsAndIsTold) {
    Session& session = open(Dialect::kV1, "*");
    read(session);
    say(session, R"({"type":"subscribe","data":{"types":["system.status","agent.status"]}})");
    read(session);
    say(session, auth("ann:60:agent.*"));
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("error", "authenticated"));
    EXPECT_EQ(messages[0].at("data").at("topic"), "system.status");
    apply(value({.seq = 2}, clock_.now()));
    EXPECT_THAT(read(session), IsEmpty());
}

TEST_F(HubAccessTest, AStarIsAnsweredAnewWhenAFreshTokenAllowsSomethingElse) {
    Session& session = open(Dialect::kV1, "agent.*");
    read(session);
    say(session, R"({"type":"subscribe","data":{"types":["*"]}})");
    read(session);
    say(session, auth("ann:60:agent.*"));
    EXPECT_THAT(types(session), ElementsAre("authenticated"));
    say(session, auth("ann:60:system.*"));
    const auto messages = read(session);
    ASSERT_THAT(types(messages), ElementsAre("authenticated", "subscribed", "system.status"));
    EXPECT_EQ(messages[1].at("data").at("topics").at("*").at("cause"), "access");
}

TEST_F(HubTest, WhereNoTokenIsNeededOneThatIsSentIsNotLookedAt) {
    join();
    Session& session = v1();
    Session& old = legacy();
    for (Session* each : {&session, &old}) {
        say(*each, R"({"type":"auth","data":{"token":"nonsense"}})");
        EXPECT_FALSE(each->closing());
    }
    EXPECT_THAT(types(session), ElementsAre("authenticated"));
    EXPECT_THAT(read(old), IsEmpty());
}

}  // namespace
}  // namespace sigmacast::edge
