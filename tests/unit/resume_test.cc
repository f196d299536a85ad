// What a client that was away gets: a Hub, and a broker that answers when it is told to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "common/log.h"
#include "edge/hub.h"
#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using Object = boost::json::object;

const std::string kOtherEpoch = "fedcba9876543210fedcba9876543210";

/// Messages of the log, by pos: what the broker has.
class ResumeTest : public ::testing::Test {
 protected:
    void make_hub(HubOptions options) {
        hub_ = std::make_unique<Hub>(std::move(options), Random(3));
    }

    /// An event of "alert", unless another topic is named, at the next position. In the log alone.
    Message log_event(const std::string& topic = "alert", std::size_t bytes = 0) {
        Message message = event({.topic = topic,
                                 .json = "{\"text\":\"" + std::string(bytes, 'x') + "\"}",
                                 .seq = ++seq_[topic]},
                                clock_.now());
        message.pos = ++pos_;
        log_.push_back(message);
        return message;
    }
    /// In the log, and on the feed.
    void live_event(const std::string& topic = "alert", std::size_t bytes = 0) {
        apply(log_event(topic, bytes));
    }
    void state(std::uint64_t seq) {
        Message message = value({.seq = seq}, clock_.now());
        message.pos = ++pos_;
        apply(message);
    }
    void apply(Upstream::Step step) {
        std::vector<Upstream::Step> steps;
        steps.push_back(std::move(step));
        hub_->apply(std::move(steps), clock_.now());
    }
    /// The edge's snapshot of the log as it is.
    void join(const std::string& epoch = kEpoch) {
        auto made = snapshot(1, {}, {poll_state({}, 1, live(clock_.now()))},
                             {value({.seq = 1}, clock_.now())}, epoch);
        made.pos = pos_;
        for (const auto& [topic, seq] : seq_) {
            made.streams.push_back({"nas", topic, seq, true});
        }
        made.streams.push_back({"nas", "system.status", 1});
        epoch_ = epoch;
        apply(std::move(made));
        apply(Upstream::UplinkChange{true});
    }
    void bookmark() { apply(Upstream::Bookmark{pos_}); }
    /// Answers what the Hub has asked for, as a broker with pages of `page_rows_` would.
    std::size_t serve(std::size_t times = 1'000) {
        std::size_t served = 0;
        for (; served < times; ++served) {
            for (protocol::Any& any : hub_->take_requests()) {
                asked_.push_back(std::get<protocol::HistoryRequest>(std::move(any)));
            }
            if (asked_.empty()) {
                break;
            }
            const protocol::HistoryRequest request = asked_.back();
            asked_.clear();
            apply(answer_to(request));
        }
        return served;
    }
    protocol::History answer_to(const protocol::HistoryRequest& request) {
        protocol::History answer{.id = request.id,
                                 .epoch = epoch_,
                                 .from = request.from,
                                 .to = request.from,
                                 .pos = pos_,
                                 .floors = {},
                                 .items = {},
                                 .unreadable = std::exchange(unreadable_, 0)};
        if (request.epoch == epoch_ && request.from < pos_) {
            answer.to = pos_;
            ++pages_;
            for (const Message& message : log_) {
                if (message.pos <= request.from) {
                    continue;
                }
                if (answer.items.size() == page_rows_) {
                    answer.to = answer.items.back().pos;
                    break;
                }
                answer.items.push_back(message);
            }
            for (const auto& [topic, floor] : floors_) {
                if (floor > request.from) {
                    answer.floors.push_back({"nas", topic, floor});
                }
            }
        }
        return answer;
    }
    /// The retention takes what is up to `pos`.
    void trim(const std::string& topic, std::uint64_t pos) {
        std::erase_if(log_, [&](const Message& message) {
            return message.topic == topic && message.pos <= pos;
        });
        floors_[topic] = pos;
    }
    /// Moves time on, does what falls due, and has the broker answer unless it is dead.
    void wait(Millis span, bool served = true) {
        const Mono end = clock_.now().mono + span;
        while (clock_.now().mono < end) {
            clock_.advance(Millis{1});
            if (hub_->deadline() <= clock_.now().mono) {
                hub_->on_timer(clock_.now());
            }
            if (served) {
                serve();
            }
        }
    }
    Session& open() {
        Session& session = hub_->open(Dialect::kV1, clock_.now());
        read(session);
        return session;
    }
    void say(Session& session, const std::string& text) {
        hub_->receive(session, text, clock_.now());
    }
    void resume(Session& session, std::uint64_t pos, const std::string& types = R"("alert")",
                const std::string& epoch = kEpoch, const std::string& more = "") {
        say(session, R"({"type":"subscribe","id":8,"data":{"types":[)" + types +
                         R"(],"resume":{"epoch":")" + epoch + R"(","pos":)" + std::to_string(pos) +
                         more + "}}}");
    }
    std::vector<Object> read(Session& session, std::size_t frames = 100'000) {
        std::vector<Object> read;
        for (const FramePtr& each : session.take(frames, clock_.now())) {
            read.push_back(json_of(each));
        }
        return read;
    }
    static std::vector<std::uint64_t> positions(const std::vector<Object>& messages,
                                                std::string_view type = "alert") {
        std::vector<std::uint64_t> found;
        for (const Object& message : messages) {
            if (message.at("type").as_string() == type) {
                found.push_back(message.at("pos").to_number<std::uint64_t>());
            }
        }
        return found;
    }
    std::vector<std::uint64_t> positions(Session& session) { return positions(read(session)); }
    /// The positions of "alert" in the log after `from`.
    std::vector<std::uint64_t> logged(std::uint64_t from) const {
        std::vector<std::uint64_t> found;
        for (const Message& message : log_) {
            if (message.pos > from && message.topic == "alert") {
                found.push_back(message.pos);
            }
        }
        return found;
    }
    static Object part(const std::vector<Object>& messages, std::size_t at = 0,
                       std::string_view topic = "alert") {
        if (messages.size() <= at || messages[at].at("type") != "subscribed") {
            ADD_FAILURE() << "no answer";
            return {};
        }
        return messages[at].at("data").at("topics").at(topic).as_object();
    }

    Clock clock_;
    std::unique_ptr<Hub> hub_ = std::make_unique<Hub>(HubOptions{}, Random(3));
    std::vector<Message> log_;
    std::map<std::string, std::uint64_t> seq_;
    std::map<std::string, std::uint64_t> floors_;
    std::uint64_t pos_ = 100;
    std::string epoch_;
    std::size_t page_rows_ = 10;
    std::size_t pages_ = 0;
    std::uint64_t unreadable_ = 0;  // Rows of the next answer.
    std::vector<protocol::HistoryRequest> asked_;
};

TEST_F(ResumeTest, WhatTheRingHoldsIsSentAtOnceAlsoWhileTheBrokerIsDead) {
    join();
    for (int i = 0; i < 5; ++i) {
        live_event();
    }
    bookmark();
    apply(Upstream::UplinkChange{false});
    Session& session = open();
    resume(session, 102);
    const auto messages = read(session);
    const Object answer = part(messages);
    EXPECT_EQ(messages[0].at("id"), 8);
    EXPECT_EQ(answer.at("result"), "resumed");
    EXPECT_EQ(answer.at("from"), 102);
    EXPECT_EQ(answer.at("to"), 105);
    EXPECT_THAT(positions(messages), ElementsAre(103, 104, 105));
    EXPECT_EQ(messages[1].at("replay"), true);
    EXPECT_EQ(messages[1].at("seq"), 3);
    live_event();
    const auto later = read(session);
    EXPECT_THAT(positions(later), ElementsAre(106));
    EXPECT_FALSE(later[0].contains("replay"));
    EXPECT_EQ(hub_->history().requests(), 0u);
    EXPECT_EQ(hub_->resuming(), 0u);
}

TEST_F(ResumeTest, WhatThisEdgeDoesNotServeIsNotSaidToBeResumed) {
    HubOptions options;
    options.topics = {"alert"};
    make_hub(options);
    join();
    const std::uint64_t before = pos_;
    live_event();
    bookmark();
    Session& session = open();
    resume(session, before, R"("alert","rpc_error","heartbeat")");
    const auto messages = read(session);
    ASSERT_FALSE(messages.empty());
    const Object& topics = messages.front().at("data").at("topics").as_object();
    EXPECT_EQ(topics.at("rpc_error").at("result"), "not_served");
    EXPECT_EQ(topics.at("heartbeat").at("result"), "live");
    EXPECT_NE(topics.at("alert").at("result"), "not_served");
}

TEST_F(ResumeTest, AnEdgeThatLacksTheRangeAsksTheBrokerAndNothingIsSentTwice) {
    for (int i = 0; i < 35; ++i) {
        log_event();
    }
    join();
    live_event();
    bookmark();
    live_event();  // Not reached by a bookmark: in the log and in the ring.
    Session& session = open();
    resume(session, 104);
    EXPECT_THAT(read(session), IsEmpty()) << "nothing is promised before it is known";
    live_event();
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("result"), "resumed");
    EXPECT_EQ(part(messages).at("from"), 104);
    EXPECT_THAT(positions(messages), ElementsAreArray(logged(104)));
    EXPECT_EQ(hub_->resuming(), 0u);
    live_event();
    EXPECT_THAT(positions(session), ElementsAre(139));
}

TEST_F(ResumeTest, ACrowdCostsTheBrokerAtMostThePagesOfItsLogTwice) {
    for (int i = 0; i < 100; ++i) {
        log_event();
    }
    join();
    std::vector<Session*> sessions;
    for (std::uint64_t i = 0; i < 1'000; ++i) {
        sessions.push_back(&open());
        resume(*sessions.back(), 100 + i % 100);
        if (i % 100 == 50) {
            wait(Millis{3});
        }
    }
    wait(Millis{1'000});
    for (std::uint64_t i = 0; i < sessions.size(); ++i) {
        ASSERT_THAT(positions(*sessions[i]), ElementsAreArray(logged(100 + i % 100))) << i;
    }
    EXPECT_LE(pages_, 20u);
    EXPECT_LE(hub_->history().requests(), 21u);
    EXPECT_LE(hub_->counters().encodes, 3'000u + 400u) << "hello, answer, and each event twice";
}

TEST_F(ResumeTest, WhoComesBehindTheScanWaitsForItsNextRoundAndHoldsNobodyUp) {
    page_rows_ = 1;
    for (int i = 0; i < 200; ++i) {  // More than the window holds.
        log_event();
    }
    join();
    std::vector<Session*> sessions;
    for (int i = 0; i < 240; ++i) {
        if (i % 10 == 0) {
            sessions.push_back(&open());
            resume(*sessions.back(), 100);
        }
        wait(Millis{1}, false);
        serve(1);  // A page takes its time.
    }
    EXPECT_THAT(positions(*sessions[0]), ElementsAreArray(logged(100)));
    wait(Millis{4'000});  // Pages that were asked for again come one each kPageEach.
    for (std::size_t i = 1; i < sessions.size(); ++i) {
        ASSERT_THAT(positions(*sessions[i]), ElementsAreArray(logged(100))) << i;
    }
    EXPECT_LE(pages_, 400u);
}

TEST_F(ResumeTest, WhatRetentionHasTakenIsToldAndTheRestIsSent) {
    for (int i = 0; i < 20; ++i) {
        log_event();
    }
    trim("alert", 108);
    join();
    Session& session = open();
    resume(session, 103);
    wait(Millis{10});
    const auto messages = read(session);
    const Object answer = part(messages);
    EXPECT_EQ(answer.at("result"), "snapshot");
    EXPECT_EQ(answer.at("cause"), "too_old");
    EXPECT_EQ(answer.at("count"), 0);
    EXPECT_EQ(answer.at("lost").at("from"), 103);
    EXPECT_EQ(answer.at("lost").at("to"), 108);
    EXPECT_THAT(positions(messages), ElementsAreArray(logged(103)));
    EXPECT_EQ(logged(103).front(), 109u);
}

TEST_F(ResumeTest, AQuietTopicIsNotTooOldWhereOthersWereTrimmed) {
    log_event();
    for (int i = 0; i < 20; ++i) {
        log_event("noise");
    }
    trim("noise", 115);
    log_event();
    join();
    Session& session = open();
    resume(session, 101);
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("result"), "resumed");
    EXPECT_THAT(positions(messages), ElementsAre(122));
}

TEST_F(ResumeTest, WhatIsTrimmedWhileAClientCatchesUpIsToldToo) {
    for (int i = 0; i < 40; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{5}, false);
    serve(1);
    trim("alert", 125);
    wait(Millis{20});
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("result"), "resumed");
    const auto told = std::find_if(messages.begin() + 1, messages.end(), [](const Object& message) {
        return message.at("type") == "subscribed";
    });
    ASSERT_NE(told, messages.end());
    EXPECT_FALSE(told->contains("id"));
    EXPECT_EQ(told->at("data").at("topics").at("alert").at("lost").at("to"), 125);
    EXPECT_EQ(positions(messages).size(), 10u + 15u);
}

TEST_F(ResumeTest, StateIsSentAnewAndSaysThatValuesBetweenWereLeftOut) {
    join();
    state(2);
    state(3);
    bookmark();
    Session& session = open();
    resume(session, 100, R"("system.status","alert","heartbeat","nobody.knows")");
    const auto messages = read(session);
    const Object answer = part(messages, 0, "system.status");
    EXPECT_EQ(answer.at("result"), "snapshot");
    EXPECT_EQ(answer.at("cause"), "conflated");
    EXPECT_EQ(answer.at("count"), 1);
    EXPECT_FALSE(answer.contains("from"));
    EXPECT_EQ(part(messages, 0, "heartbeat").at("result"), "live");
    EXPECT_EQ(part(messages, 0, "nobody.knows").at("result"), "unknown");
    EXPECT_THAT(positions(messages, "system.status"), ElementsAre(102));
}

TEST_F(ResumeTest, AStarGetsStateAndTheEventsOfAllTopics) {
    join();
    live_event();
    live_event("other");
    bookmark();
    Session& session = open();
    resume(session, 100, R"("*")");
    const auto messages = read(session);
    const Object answer = part(messages, 0, "*");
    EXPECT_EQ(answer.at("result"), "snapshot");
    EXPECT_EQ(answer.at("cause"), "conflated");
    EXPECT_EQ(answer.at("from"), 100);
    EXPECT_THAT(positions(messages), ElementsAre(101));
    EXPECT_THAT(positions(messages, "other"), ElementsAre(102));
}

TEST_F(ResumeTest, OfAStarTheTopicsThatLostEventsAreNamed) {
    log_event();
    log_event("other");
    log_event("other");
    trim("other", 102);
    join();
    Session& session = open();
    resume(session, 100, R"("*")");
    wait(Millis{10});
    const auto messages = read(session);
    const Object answer = part(messages, 0, "*");
    EXPECT_EQ(answer.at("cause"), "too_old");
    EXPECT_EQ(answer.at("lost").at("to"), 102);
    EXPECT_EQ(answer.at("lost").at("topics"), boost::json::array{"other"});
    EXPECT_THAT(positions(messages, "other"), ElementsAre(103));
    EXPECT_THAT(positions(messages), ElementsAre(101));
}

TEST_F(ResumeTest, EventsSeenBeyondTheBookmarkAreNotSentAgain) {
    join();
    for (int i = 0; i < 4; ++i) {
        live_event();
    }
    bookmark();
    Session& session = open();
    resume(session, 101, R"("alert")", kEpoch, R"(,"topics":{"alert":{"nas":103}})");
    EXPECT_THAT(positions(session), ElementsAre(104));
}

TEST_F(ResumeTest, AnotherEpochIsASnapshotOnceTheBrokerHasSaidWhichIsNewer) {
    join();
    live_event();
    Session& session = open();
    resume(session, 101, R"("alert","system.status")", kOtherEpoch);
    EXPECT_THAT(read(session), IsEmpty());
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("cause"), "new_epoch");
    EXPECT_EQ(part(messages, 0, "system.status").at("count"), 1);
    EXPECT_THAT(positions(messages), IsEmpty());
    live_event();
    EXPECT_THAT(positions(session), ElementsAre(102));
}

TEST_F(ResumeTest, WhoKnowsTheNewEpochBeforeThisEdgeIsNotSentTheOldState) {
    join();
    Session& session = open();
    epoch_ = kOtherEpoch;  // The log was restored; another edge has told it.
    resume(session, 100, R"("system.status")", kOtherEpoch);
    wait(Millis{20});
    EXPECT_THAT(read(session), IsEmpty());
    join(kOtherEpoch);
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(part(messages, 0, "system.status").at("cause"), "conflated");
}

TEST_F(ResumeTest, APositionBeyondTheLogIsASnapshot) {
    join();
    Session& session = open();
    resume(session, 5'000);
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("result"), "snapshot");
    EXPECT_EQ(part(messages).at("cause"), "future");
    live_event();
    EXPECT_THAT(positions(session), ElementsAre(101));
}

TEST_F(ResumeTest, AnEdgeThatIsBehindWaitsUntilItHasReachedWhatTheClientHasSeen) {
    join();
    state(2);
    log_event();
    const Message newest = log_event();
    Session& session = open();
    resume(session, 103, R"("system.status","alert")");
    wait(Millis{500});
    EXPECT_THAT(read(session), IsEmpty()) << "its state may be older than what the client has";
    apply(log_[0]);
    apply(newest);
    wait(Millis{500});
    EXPECT_THAT(read(session), IsEmpty());
    bookmark();
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("result"), "resumed");
    EXPECT_THAT(positions(messages), IsEmpty());
    live_event();
    EXPECT_THAT(positions(session), ElementsAre(104));
}

TEST_F(ResumeTest, AnEdgeThatStaysBehindSendsTheClientAway) {
    join();
    apply(Upstream::UplinkChange{false});
    Session& session = open();
    resume(session, 500);
    wait(Millis{2'900}, false);
    EXPECT_FALSE(session.closing());
    wait(Millis{300}, false);
    ASSERT_TRUE(session.closing());
    EXPECT_EQ(session.closing()->code, kCloseEdgeBehind);
    const auto messages = read(session);
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_EQ(messages[0].at("type"), "error");
    EXPECT_EQ(messages[0].at("id"), 8);
    EXPECT_EQ(messages[0].at("data").at("code"), 4201);
    EXPECT_EQ(messages[0].at("data").at("temporary"), true);
    EXPECT_EQ(messages[1].at("type"), "goodbye");
    EXPECT_TRUE(messages[1].at("data").as_object().contains("reconnect_in_ms"));
    EXPECT_EQ(hub_->counters().resumes.edge_behind, 1u);
}

TEST_F(ResumeTest, AnEdgeThatHasJustStartedAnswersOnceItHasItsSnapshot) {
    for (int i = 0; i < 5; ++i) {
        log_event();
    }
    Session& session = open();
    resume(session, 102, R"("system.status","alert")");
    wait(Millis{100});
    EXPECT_THAT(read(session), IsEmpty());
    join();
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(messages[0].at("id"), 8);
    EXPECT_EQ(part(messages).at("result"), "resumed");
    EXPECT_EQ(part(messages, 0, "system.status").at("cause"), "conflated");
    EXPECT_THAT(positions(messages), ElementsAre(103, 104, 105));
    EXPECT_EQ(std::count_if(messages.begin(), messages.end(),
                            [](const Object& each) { return each.at("type") == "subscribed"; }),
              1);
}

TEST_F(ResumeTest, WhileTheBrokerIsSilentStateIsAnsweredAndEventsFollowLater) {
    for (int i = 0; i < 5; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 102, R"("system.status","alert")");
    wait(Millis{1'950}, false);
    EXPECT_THAT(read(session), IsEmpty());
    wait(Millis{200}, false);
    const auto messages = read(session);
    EXPECT_EQ(part(messages, 0, "system.status").at("cause"), "conflated");
    EXPECT_EQ(part(messages).at("result"), "pending");
    EXPECT_THAT(positions(messages, "system.status").size(), 1u);
    live_event();
    state(2);
    const auto meanwhile = read(session);
    EXPECT_THAT(positions(meanwhile, "system.status").size(), 1u) << "state is live";
    EXPECT_THAT(positions(meanwhile), IsEmpty()) << "an event has its place behind the older ones";
    bookmark();
    wait(Millis{5'000});
    const auto later = read(session);
    EXPECT_FALSE(later[0].contains("id"));
    EXPECT_EQ(part(later).at("result"), "resumed");
    EXPECT_THAT(positions(later), ElementsAreArray(logged(102)));
}

TEST_F(ResumeTest, ABrokerThatNeverTellsIsGivenUpAndTheClientIsTold) {
    for (int i = 0; i < 5; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 102);
    wait(Millis{30'000}, false);
    live_event();
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("result"), "pending");
    const auto told = std::find_if(messages.begin() + 1, messages.end(), [](const Object& message) {
        return message.at("type") == "subscribed";
    });
    ASSERT_NE(told, messages.end());
    EXPECT_EQ(told->at("data").at("topics").at("alert").at("cause"), "unavailable");
    EXPECT_EQ(told->at("data").at("topics").at("alert").at("lost").at("to"), 105);
    EXPECT_THAT(positions(messages), ElementsAre(106));
    EXPECT_LE(hub_->history().requests(), 7u);
}

TEST_F(ResumeTest, ASlowClientHoldsNobodyUpAndItsQueueStaysBounded) {
    page_rows_ = 50;
    for (int i = 0; i < 1'000; ++i) {
        log_event("alert", 2'000);
    }
    join();
    Session& slow = open();
    Session& fast = open();
    resume(slow, 100);
    resume(fast, 100);
    std::vector<std::uint64_t> got;
    for (int i = 0; i < 2'000; ++i) {
        wait(Millis{1});
        const auto some = positions(fast);
        got.insert(got.end(), some.begin(), some.end());
        ASSERT_LE(slow.queued_bytes(), Hub::kReplayBytes + 4'096);
        ASSERT_LE(fast.queued_bytes(), Hub::kReplayBytes + 4'096);
    }
    EXPECT_THAT(got, ElementsAreArray(logged(100)));
    EXPECT_FALSE(slow.closing());
    EXPECT_EQ(hub_->resuming(), 1u);
    const std::uint64_t before = hub_->history().requests();
    got.clear();
    for (int i = 0; i < 20'000 && got.size() < 1'000; ++i) {
        for (const Object& each : read(slow, 3)) {
            if (each.at("type") == "alert") {
                got.push_back(each.at("pos").to_number<std::uint64_t>());
            }
        }
        wait(Millis{1});
    }
    EXPECT_THAT(got, ElementsAreArray(logged(100)));
    EXPECT_LE(hub_->history().requests() - before, 50u);
    EXPECT_EQ(hub_->resuming(), 0u);
}

TEST_F(ResumeTest, TheRingIsBoundedAndWhatItHasLostComesFromTheLog) {
    make_hub({.legacy_origin = {}, .queue = {}, .ring_bytes_max = 20'000});
    join();
    for (int i = 0; i < 200; ++i) {
        live_event();
    }
    bookmark();
    EXPECT_LE(hub_->history().ring_bytes(), 20'000u);
    EXPECT_GT(hub_->history().ring_start(), 200u);
    Session& session = open();
    resume(session, 110);
    wait(Millis{20});
    EXPECT_THAT(positions(session), ElementsAreArray(logged(110)));
}

TEST_F(ResumeTest, AHoleThatIsFilledLateIsSentOnceToWhoCatchesUp) {
    join();
    const Message late = log_event("other");
    live_event();
    live_event();
    Session& session = open();
    resume(session, 100, R"("alert","other")");
    EXPECT_EQ(positions(read(session)).size(), 2u);
    apply(late);
    bookmark();
    EXPECT_THAT(positions(read(session), "other"), ElementsAre(101));
    resume(open(), 100, R"("alert","other")");
    Session& another = open();
    resume(another, 100, R"("alert","other")");
    const auto messages = read(another);
    EXPECT_THAT(positions(messages), ElementsAre(102, 103));
    EXPECT_THAT(positions(messages, "other"), ElementsAre(101));
}

TEST_F(ResumeTest, WhatTheLogHasBeforeTheFeedHasBroughtItIsSentOnce) {
    for (int i = 0; i < 5; ++i) {
        log_event();
    }
    join();
    const Message late = log_event();  // Committed, and on its way.
    Session& session = open();
    resume(session, 102);
    wait(Millis{10});
    EXPECT_THAT(positions(session), ElementsAre(103, 104, 105));
    apply(late);
    bookmark();
    wait(Millis{10});
    EXPECT_THAT(positions(session), ElementsAre(106));
}

TEST_F(ResumeTest, WhoIsAheadOfTheBookmarkWhenTheEdgeStartsAnewIsSentNothingTwice) {
    join();
    for (int i = 0; i < 60; ++i) {
        live_event("alert", 8'000);
    }
    Session& session = open();
    resume(session, 100);
    wait(Millis{20});
    auto got = positions(session);
    EXPECT_GT(got.size(), 5u);
    EXPECT_LT(got.size(), 60u);
    join();
    for (int i = 0; i < 100; ++i) {
        wait(Millis{10});
        const auto more = positions(session);
        got.insert(got.end(), more.begin(), more.end());
    }
    EXPECT_THAT(got, ElementsAreArray(logged(100)));
}

TEST_F(ResumeTest, AfterASnapshotOfTheEdgesOwnNobodysEventsAreSkippedOrSentTwice) {
    join();
    Session& session = open();
    say(session, R"({"type":"subscribe","data":{"types":["alert","system.status"]}})");
    live_event();
    bookmark();
    live_event();
    EXPECT_THAT(positions(session), ElementsAre(101, 102));
    log_event();  // Lost on the way, for good.
    log_event();
    join();
    wait(Millis{10});
    const auto messages = read(session);
    EXPECT_EQ(part(messages, 0, "system.status").at("cause"), "repaired");
    EXPECT_EQ(part(messages).at("result"), "resumed");
    EXPECT_EQ(part(messages).at("from"), 101);
    EXPECT_THAT(positions(messages), ElementsAre(103, 104));
    live_event();
    EXPECT_THAT(positions(session), ElementsAre(105));
}

TEST_F(ResumeTest, ANewEpochEndsWhatWasUnderWay) {
    for (int i = 0; i < 30; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{5}, false);
    serve(1);
    EXPECT_EQ(positions(session).size(), 10u);
    log_.clear();
    join(kOtherEpoch);
    wait(Millis{20});
    const auto messages = read(session);
    EXPECT_EQ(part(messages).at("cause"), "new_epoch");
    EXPECT_THAT(positions(messages), IsEmpty());
    EXPECT_EQ(hub_->resuming(), 0u);
}

TEST_F(ResumeTest, NoBookmarkIsToldBeforeWhatItPromisesWasSent) {
    for (int i = 0; i < 30; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{2'200}, false);
    EXPECT_EQ(part(read(session)).at("result"), "pending");
    wait(Millis{5'300}, false);
    say(session, R"({"type":"ping"})");
    const auto messages = read(session);
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_EQ(messages[0].at("type"), "heartbeat");
    EXPECT_EQ(messages[0].at("pos"), 100);
    EXPECT_EQ(messages[1].at("type"), "pong");
    EXPECT_EQ(messages[1].at("pos"), 100);
    wait(Millis{5'000});
    read(session);
    say(session, R"({"type":"ping"})");
    EXPECT_EQ(read(session).at(0).at("pos"), 130);
}

TEST_F(ResumeTest, UnsubscribeEndsWhatWasUnderWayAndWhoAskedIsAnswered) {
    for (int i = 0; i < 30; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 100);
    say(session, R"({"type":"unsubscribe","data":{"types":["alert"]}})");
    const auto messages = read(session);
    ASSERT_EQ(messages.size(), 1u);
    EXPECT_EQ(messages[0].at("id"), 8);
    EXPECT_TRUE(messages[0].at("data").at("topics").as_object().empty());
    wait(Millis{50});
    EXPECT_THAT(read(session), IsEmpty());
}

TEST_F(ResumeTest, WhatIsSubscribedToAnewIsSentOnce) {
    for (int i = 0; i < 30; ++i) {
        log_event();
    }
    join();
    Session& session = open();
    resume(session, 100);
    resume(session, 110);
    wait(Millis{20});
    EXPECT_THAT(positions(session), ElementsAreArray(logged(110)));
    say(session, R"({"type":"subscribe","data":{"types":["alert"]}})");
    EXPECT_THAT(positions(session), IsEmpty());
}

TEST_F(ResumeTest, AGrantHoldsForWhatWasMissed) {
    Grant grant;
    grant.everything = false;
    grant.topics = {"alert"};
    join();
    live_event();
    live_event("secret");
    bookmark();
    Session& session = hub_->open(Dialect::kV1, clock_.now(), grant);
    read(session);
    resume(session, 100, R"("*","secret")");
    const auto messages = read(session);
    EXPECT_EQ(part(messages, 0, "secret").at("result"), "denied");
    EXPECT_THAT(positions(messages), ElementsAre(101));
    EXPECT_THAT(positions(messages, "secret"), IsEmpty());
}

TEST_F(ResumeTest, GarbageIsAnswered) {
    join();
    Session& session = open();
    const std::vector<std::string> garbage = {
        R"(null)",
        R"(7)",
        R"([])",
        R"({})",
        R"({"epoch":"","pos":0})",
        R"({"epoch":")" + kEpoch + R"("})",
        R"({"epoch":")" + kEpoch + R"(","pos":-1})",
        R"({"epoch":")" + kEpoch + R"(","pos":1.5})",
        R"({"epoch":")" + kEpoch + R"(","pos":18446744073709551615})",
        R"({"epoch":7,"pos":1})",
        R"({"epoch":"0123","pos":1})",
        R"({"epoch":")" + kEpoch + R"(","pos":1,"topics":[]})",
        R"({"epoch":")" + kEpoch + R"(","pos":1,"topics":{"alert":5}})",
        R"({"epoch":")" + kEpoch + R"(","pos":1,"topics":{"alert":{"nas":"1"}}})"};
    for (const std::string& each : garbage) {
        say(session,
            R"({"type":"subscribe","id":1,"data":{"types":["alert"],"resume":)" + each + "}}");
        const auto messages = read(session);
        EXPECT_EQ(part(messages).at("result"), "snapshot") << each;
        EXPECT_EQ(part(messages).at("cause"), "bad_cursor") << each;
    }
    EXPECT_EQ(hub_->counters().resumes.bad_cursor, garbage.size());
}

TEST_F(ResumeTest, AGapOfAQuietLogIsToldFromTheRing) {
    join();
    live_event();
    bookmark();
    ++seq_["alert"];  // A gap's row, as Upstream hands it over.
    apply(Upstream::Lost{"nas", "alert", {2, 2}, ++pos_});
    bookmark();
    live_event();
    bookmark();
    Session& session = open();
    resume(session, 101);
    wait(Millis{10});
    const auto messages = read(session);
    ASSERT_EQ(messages.size(), 3u);
    EXPECT_EQ(messages[1].at("type"), "skipped");
    EXPECT_THAT(positions(messages), ElementsAre(103));
}

TEST_F(ResumeTest, AHoleThatNobodyCanPlaceIsToldToWhoeverWasAwayToo) {
    join();
    live_event();
    bookmark();
    ++seq_["alert"];
    ++pos_;
    apply(Upstream::Lost{"nas", "alert", {2, 2}});
    bookmark();
    Session& session = open();
    resume(session, 101);
    wait(Millis{10});
    const auto messages = read(session);
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_EQ(messages[1].at("type"), "skipped");
}

TEST_F(ResumeTest, ATurnThatEndsAtANoteLosesNoEvent) {
    log_event();
    for (int i = 0; i < 19'998; ++i) {
        log_event("other");
    }
    log_event();  // To be lost.
    log_event();
    log_event();
    std::erase_if(log_, [](const Message& m) { return m.topic == "alert" && m.seq == 2; });
    page_rows_ = 30'000;
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{50});
    EXPECT_EQ(positions(session), logged(100));
}

TEST_F(ResumeTest, ATopicNamedBesideAStarThatCatchesUpMissesNothingOfWhatTheEdgeMissed) {
    for (int i = 0; i < 3000; ++i) {
        log_event("other", 300);
    }
    join();
    live_event();
    bookmark();
    Session& session = open();
    resume(session, 100, R"("*")");
    wait(Millis{50});
    resume(session, pos_, R"("alert")");
    wait(Millis{5});
    ASSERT_EQ(session.resumes.size(), 1u) << "the star's alone";
    const std::uint64_t before = pos_;
    log_event();  // The edge misses it, and takes a snapshot.
    join();
    std::vector<Object> messages;
    const auto take = [&] {
        for (Object& message : read(session)) {
            messages.push_back(std::move(message));
        }
    };
    for (int i = 0; i < 200; ++i) {
        wait(Millis{20});
        take();
    }
    live_event();
    take();
    auto got = positions(messages);
    std::erase_if(got, [&](std::uint64_t pos) { return pos <= before; });
    EXPECT_THAT(got, ElementsAre(before + 1, before + 2));
}

TEST_F(ResumeTest, WhoTakesAStarBackBeforeItsAnswerKeepsWhatWasNamedBefore) {
    for (int i = 0; i < 3; ++i) {
        log_event("other");
    }
    join();
    Session& session = open();
    say(session, R"({"type":"subscribe","data":{"types":["alert"]}})");
    read(session);
    resume(session, 100, R"("*")");
    wait(Millis{10}, false);
    live_event();
    const std::uint64_t held = pos_;
    say(session, R"({"type":"unsubscribe","data":{"types":["*"]}})");
    wait(Millis{100});
    live_event();
    bookmark();
    EXPECT_THAT(positions(session), ElementsAre(held, held + 1));
}

TEST_F(ResumeTest, NothingIsSaidToBeToldOnceASessionIsToBeClosed) {
    for (int i = 0; i < 3000; ++i) {
        log_event("alert", 300);
    }
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{50});
    bookmark();
    EXPECT_LT(hub_->told_pos(session).value(), pos_);
    hub_->drain(clock_.now().mono, Millis{0}, clock_.now());
    wait(Millis{30});
    EXPECT_EQ(hub_->told_pos(session), std::nullopt);
}

TEST_F(ResumeTest, CursorsOfOneClientAreBoundedTogether) {
    join();
    live_event();
    std::string seen = R"(,"topics":{)";
    for (int i = 0; i < 600; ++i) {
        seen += "\"t" + std::to_string(i) + "\":{\"nas\":1},";
    }
    seen += R"("zzz":{"nas":200}})";
    Session& session = open();
    resume(session, 100, R"("alert")", kEpoch, seen);
    EXPECT_TRUE(read(session).empty()) << "this edge is not as far yet";
    resume(session, 100, R"("other")", kEpoch, seen);
    EXPECT_EQ(part(read(session), 0, "other").at("cause"), "bad_cursor");
}

TEST_F(ResumeTest, AHoleInTheLogIsToldAsLost) {
    for (int i = 0; i < 6; ++i) {
        log_event();
    }
    log_.erase(log_.begin() + 2);
    Message& gap = log_[3];  // seq 5
    gap.kind = Kind::kGap;
    gap.detail = Gap{5, "damaged"};
    gap.data = nullptr;
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{10});
    std::vector<std::string> lost;
    const auto messages = read(session);
    for (const Object& message : messages) {
        if (message.at("type") == "skipped") {
            lost.push_back(boost::json::serialize(message.at("data")));
        }
    }
    EXPECT_THAT(positions(messages), ElementsAre(101, 102, 104, 106));
    EXPECT_THAT(lost, ElementsAre(R"({"topic":"alert","from":3,"to":3,"why":"lost"})",
                                  R"({"topic":"alert","from":5,"to":5,"why":"lost"})"));
}

TEST_F(ResumeTest, ACrowdOfUnequalSpeedCostsTheBrokerABoundedNumberOfRequests) {
    for (int i = 0; i < 1'000; ++i) {
        log_event("alert", 2'000);  // 100 pages; the edge keeps fewer.
    }
    join();
    struct Client {
        Session* session = nullptr;
        std::size_t wanted = 0;
        std::size_t speed = 0;
        std::size_t got = 0;
    };
    std::vector<Client> clients;
    Random random(11);
    const auto any = [&](int most) {
        return static_cast<std::uint64_t>(random.upto(Millis{most}).count());
    };
    for (int i = 0; i < 1'000; ++i) {
        Session& session = open();
        const std::uint64_t from = 100 + any(990);
        resume(session, from);
        clients.push_back({&session, 1'100 - from, 1 + any(9), 0});
    }
    std::size_t left = clients.size();
    Millis took{0};
    for (; left > 0 && took < Millis{120'000}; took += Millis{10}) {
        for (int i = 0; i < 10; ++i) {  // A page takes a millisecond.
            wait(Millis{1}, false);
            serve(1);
        }
        for (Client& client : clients) {
            if (client.got <= client.wanted) {
                client.got += client.session->take(client.speed, clock_.now()).size();
                left -= client.got > client.wanted ? 1u : 0u;  // The answer is one of them.
            }
        }
    }
    RecordProperty("requests", static_cast<int>(hub_->history().requests()));
    RecordProperty("virtual_ms", static_cast<int>(took.count()));
    EXPECT_EQ(left, 0u);
    EXPECT_EQ(hub_->resuming(), 0u);
    const auto seconds = static_cast<std::uint64_t>(took / Millis{1'000}) + 1;
    EXPECT_LE(hub_->history().requests(),
              History::kPagesAtOnce + seconds * (Millis{1'000} / History::kPageEach));
}

TEST(History, EventsThatComeLateTakeTheirPlaceAtLittleMoreCostThanOthers) {
    const Stream stream{"nas", "alert"};
    const FramePtr frame = raw_frame(std::string(200, 'x'));
    History history(Random(1));
    history.reset(kEpoch, 1);
    const auto cpu_of = [&](std::uint64_t first, std::uint64_t last, std::uint64_t step) {
        const std::clock_t begin = std::clock();
        for (std::uint64_t pos = first; pos < last; pos += step) {
            history.add({pos, pos, &stream, frame});
        }
        return std::clock() - begin;
    };
    const std::clock_t in_order = cpu_of(20'000, 40'000, 1);
    const std::clock_t late = cpu_of(10'000, 20'000, 5);
    EXPECT_LE(late, in_order * 10) << "2,000 before 20,000";
    std::uint64_t last = 0;
    for (const auto& [pos, entry] : history.ring()) {
        EXPECT_EQ(pos, entry.pos);
        EXPECT_GT(pos, last);
        last = pos;
    }
    EXPECT_EQ(history.ring().size(), 22'000u);
}

TEST_F(ResumeTest, WhoTakesNothingIsNotLookedAtUntilItDoes) {
    for (int i = 0; i < 500; ++i) {
        log_event("alert", 2'000);
    }
    join();
    page_rows_ = 1'000;
    Session& session = open();
    resume(session, 100);
    wait(Millis{5});
    const std::size_t queued = session.queued_bytes();
    ASSERT_GT(queued, Hub::kReplayBytes / 2);
    EXPECT_GE(hub_->deadline(), clock_.now().mono + Hub::kResumeCheck);
    hub_->on_timer(clock_.now());
    EXPECT_EQ(session.queued_bytes(), queued);
    std::size_t got = session.take(100, clock_.now()).size();
    EXPECT_LE(hub_->deadline(), clock_.now().mono) << "it has room";
    for (int i = 0; i < 100 && hub_->resuming() > 0; ++i) {
        hub_->on_timer(clock_.now());
        got += session.take(100, clock_.now()).size();
    }
    got += session.take(1'000, clock_.now()).size();
    EXPECT_EQ(got, 501u) << "the answer and each event";
}

TEST_F(ResumeTest, AnEventIsRenderedOnceForThoseWhoAreThereAndForTheRing) {
    join();
    Session& session = open();
    say(session, R"({"type":"subscribe","data":{"types":["alert"]}})");
    read(session);
    const std::uint64_t before = hub_->counters().encodes;
    for (int i = 0; i < 10; ++i) {
        live_event();
    }
    EXPECT_EQ(hub_->counters().encodes - before, 10u);
    const auto live = read(session);
    EXPECT_EQ(positions(live).size(), 10u);
    Session& another = open();
    resume(another, 100);
    const auto replayed = read(another);
    ASSERT_EQ(positions(replayed).size(), 10u);
    Object expected = live[0];
    EXPECT_FALSE(expected.contains("replay"));
    expected["replay"] = true;
    EXPECT_EQ(replayed[1], expected);
}

TEST_F(ResumeTest, StateIsNotSentAgainForWhatRetentionTakesMeanwhile) {
    for (int i = 0; i < 400; ++i) {
        log_event("alert", 2'000);
    }
    join();
    Session& session = open();
    resume(session, 100, R"("*")");
    std::vector<Object> messages;
    for (int i = 0; i < 60; ++i) {
        wait(Millis{30});
        for (Object& each : read(session, 20)) {
            messages.push_back(std::move(each));
        }
        trim("alert", 190 + static_cast<std::uint64_t>(i) * 22);
    }
    wait(Millis{1'000});
    for (Object& each : read(session)) {
        messages.push_back(std::move(each));
    }
    std::size_t told = 0;
    for (const Object& each : messages) {
        if (each.at("type") == "subscribed" && !each.contains("id")) {
            ++told;
            const Object& topics = each.at("data").at("topics").as_object();
            EXPECT_FALSE(topics.contains("*")) << "its count would be of all state";
            EXPECT_EQ(topics.at("alert").at("cause"), "too_old");
            EXPECT_TRUE(topics.at("alert").as_object().contains("lost"));
        }
    }
    EXPECT_GE(told, 3u);
    EXPECT_EQ(positions(messages, "system.status").size(), 1u);
}

TEST_F(ResumeTest, StateOfAStarIsNotSentAgainOnceTheBrokerTells) {
    log_event();
    join();
    Session& session = open();
    resume(session, 100, R"("*")");
    wait(Hub::kAnswerMax + Millis{200}, false);
    EXPECT_EQ(part(read(session), 0, "*").at("count"), 1);
    wait(Millis{10'000});
    const auto messages = read(session);
    EXPECT_EQ(part(messages, 0, "*").at("result"), "resumed");
    EXPECT_THAT(positions(messages), ElementsAre(101));
    EXPECT_THAT(positions(messages, "system.status"), IsEmpty());
}

TEST_F(ResumeTest, StateOfATopicWithEventsNeverPassesThoseThatAreReplayed) {
    for (int i = 0; i < 300; ++i) {
        log_event("alert", 2'000);
    }
    join();
    Session& session = open();
    resume(session, 100);
    wait(Millis{10});
    Message late =
        value({.topic = "alert", .poll = "", .json = R"({"lamp":"on"})", .seq = ++seq_["alert"]},
              clock_.now());
    late.key = "hall";
    late.pos = ++pos_;
    apply(late);
    bookmark();
    std::vector<Object> messages;
    for (int i = 0; i < 100; ++i) {
        for (Object& each : read(session, 20)) {
            messages.push_back(std::move(each));
        }
        wait(Millis{20});
    }
    EXPECT_EQ(hub_->resuming(), 0u);
    // Who goes away with the highest position of a stream has had everything up to it.
    const auto got = positions(messages);
    ASSERT_EQ(got.size(), 301u);
    EXPECT_TRUE(std::is_sorted(got.begin(), got.end()));
    EXPECT_EQ(got.back(), late.pos);
    EXPECT_EQ(messages.back().at("data").at("lamp"), "on");
    const Object answer = part(messages, messages.size() - 2);
    EXPECT_EQ(answer.at("result"), "snapshot");
    EXPECT_EQ(answer.at("count"), 1);
    EXPECT_EQ(answer.at("cause"), "conflated");
}

TEST_F(ResumeTest, RowsThatThisEdgeCannotReadAreToldAsLost) {
    for (int i = 0; i < 30; ++i) {
        log_event();
    }
    log_event("other");
    std::erase_if(log_, [](const Message& m) { return m.pos == 105; });
    unreadable_ = 1;  // Of the first page.
    join();
    Session& session = open();
    resume(session, 104);
    Session& star = open();
    resume(star, 104, R"("*")");
    wait(Millis{50});
    const auto messages = read(session);
    const Object answer = part(messages);
    EXPECT_EQ(answer.at("result"), "snapshot");
    EXPECT_EQ(answer.at("cause"), "unavailable");
    EXPECT_EQ(answer.at("lost").at("from"), 104);
    EXPECT_EQ(answer.at("lost").at("to"), 115);
    EXPECT_THAT(positions(messages), ElementsAreArray(logged(104)));
    EXPECT_EQ(std::count_if(messages.begin(), messages.end(),
                            [](const Object& each) { return each.at("type") == "subscribed"; }),
              1)
        << "once";
    EXPECT_EQ(part(read(star), 0, "*").at("lost").at("to"), 115);
}

}  // namespace
}  // namespace sigmacast::edge
