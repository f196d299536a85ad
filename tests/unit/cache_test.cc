#include "edge/cache.h"

#include <gtest/gtest.h>

#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;

class CacheTest : public ::testing::Test {
 protected:
    Quality quality(std::string_view topic = "system.status", std::string_view key = "") {
        return cache_.effective(cache_.find("nas", topic, key)->age).quality;
    }

    Clock clock_;
    Cache cache_;

    void SetUp() override { cache_.set_uplink(true); }
};

TEST_F(CacheTest, AValueIsLiveWhenItArrivesAndStaleAfterATransition) {
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    EXPECT_EQ(quality(), Quality::kLive);
    cache_.transition(transition({.seq = 2}, stale(clock_.now(), "RPC_DISCONNECT"), clock_.now()));
    EXPECT_EQ(quality(), Quality::kStale);
    ASSERT_TRUE(cache_.put(value({.seq = 3}, clock_.now())));
    EXPECT_EQ(quality(), Quality::kLive);
}

TEST_F(CacheTest, AGoodReportMakesTheValuesThatItNamesAsNewAsItself) {
    const Make job{.topic = "compression.update", .key = "a", .poll = "jobs"};
    const Make other{.topic = "compression.update", .key = "b", .poll = "jobs"};
    ASSERT_TRUE(cache_.put(value(job, clock_.now())));
    ASSERT_TRUE(cache_.put(value(other, clock_.now())));
    const Mono before = clock_.now().mono;
    clock_.advance(Millis{5'000});
    cache_.poll(poll_state(job, 1, live(clock_.now()), {{"a"}}));
    EXPECT_EQ(cache_.find("nas", job.topic, "a")->age.as_of->mono, clock_.now().mono);
    EXPECT_EQ(cache_.find("nas", job.topic, "b")->age.as_of->mono, before);
}

TEST_F(CacheTest, TheFirstReportOfAnotherInstanceIsNewThoughItsNumberIsTheSame) {
    cache_.poll(poll_state({}, 1, live(clock_.now())));
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    EXPECT_FALSE(cache_.poll(poll_state({}, 1, live(clock_.now()))).new_report) << "a head's";
    clock_.advance(Millis{5'000});
    const Cache::PollChange change = cache_.poll(poll_state({}, 1, live(clock_.now())));
    EXPECT_TRUE(change.new_report);
    EXPECT_TRUE(change.confirms);
    EXPECT_EQ(cache_.find("nas", "system.status", "")->age.as_of->mono, clock_.now().mono);
}

TEST_F(CacheTest, AFailedReportKeepsValueAndTime) {
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    const Now good = clock_.now();
    clock_.advance(Millis{5'000});
    cache_.poll(poll_state({}, 1, stale(good, "RPC_DISCONNECT")));
    const Value& kept = *cache_.find("nas", "system.status", "");
    EXPECT_EQ(kept.age.as_of->mono, good.mono);
    EXPECT_EQ(kept.age.reason, "RPC_DISCONNECT");
    EXPECT_EQ(*kept.json, R"({"cpu_usage":1.5})");
}

TEST_F(CacheTest, WithoutTheUplinkEverythingIsStaleAndNothingIsForgotten) {
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    cache_.set_uplink(false);
    const Age age = cache_.effective(cache_.find("nas", "system.status", "")->age);
    EXPECT_EQ(age.quality, Quality::kStale);
    EXPECT_EQ(age.reason, "BROKER_UNREACHABLE");
    EXPECT_EQ(age.source, "uplink");
    EXPECT_TRUE(age.as_of);
    cache_.set_uplink(true);
    EXPECT_EQ(quality(), Quality::kLive);
}

TEST_F(CacheTest, WhatNeverHadAValueStaysDownWithoutTheUplink) {
    Age age;
    age.quality = Quality::kDown;
    cache_.set_uplink(false);
    EXPECT_EQ(cache_.effective(age).quality, Quality::kDown);
}

TEST_F(CacheTest, AFinalValueEndsItsKey) {
    ASSERT_TRUE(cache_.put(value({.key = "a"}, clock_.now())));
    ASSERT_TRUE(cache_.put(value({.key = "a", .seq = 2, .final = true}, clock_.now())));
    EXPECT_EQ(cache_.find("nas", "system.status", "a"), nullptr);
    EXPECT_EQ(cache_.entries(), 0u);
    EXPECT_EQ(cache_.bytes(), 0u);
}

TEST_F(CacheTest, WhereANewerValueCannotBecomeJsonTheOldOneStaysStaleWhateverReportsSay) {
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    const Mono answered = clock_.now().mono;
    Message bad = value({.seq = 2}, clock_.now());
    bad.data = std::make_shared<const std::string>("\xdd\xff\xff\xff\xff");
    EXPECT_FALSE(cache_.put(bad));
    clock_.advance(Seconds{60});
    cache_.poll(poll_state({}, 2, live(clock_.now())));
    const Value* kept = cache_.find("nas", "system.status", "");
    ASSERT_NE(kept, nullptr);
    EXPECT_EQ(kept->age.quality, Quality::kStale);
    EXPECT_EQ(kept->age.reason, "NOT_ENCODABLE");
    EXPECT_EQ(kept->age.as_of->mono, answered);
    ASSERT_TRUE(cache_.put(value({.seq = 3}, clock_.now())));
    EXPECT_EQ(quality("system.status"), Quality::kLive);
}

TEST_F(CacheTest, WhereANewerValueHasNoRoomTheOlderOneStaysStaleWhateverReportsSay) {
    Cache cache(100);
    ASSERT_TRUE(cache.put(value({.key = "other", .json = R"({"n":1})"}, clock_.now())));
    ASSERT_TRUE(cache.put(value({.key = "grows", .json = R"({"n":1})"}, clock_.now())));
    const std::string large = R"({"n":")" + std::string(100, 'x') + R"("})";
    ASSERT_TRUE(cache.put(value({.key = "grows", .json = large, .seq = 2}, clock_.now())))
        << "it still passes through to clients";
    EXPECT_EQ(cache.not_kept(), 1u);
    cache.poll(poll_state({}, 2, live(clock_.now())));
    EXPECT_EQ(cache.find("nas", "system.status", "grows")->age.reason, "EDGE_FULL");
    EXPECT_EQ(cache.find("nas", "system.status", "other")->age.quality, Quality::kLive);
}

TEST_F(CacheTest, ASnapshotRemovesWhatItDoesNotHoldAndKeepsWhatIsNewer) {
    cache_.replace(snapshot(1, {}));
    ASSERT_TRUE(cache_.put(value({.key = "gone", .seq = 4}, clock_.now())));
    ASSERT_TRUE(cache_.put(value({.key = "newer", .seq = 6}, clock_.now())));
    cache_.replace(snapshot(2, {{"nas", "system.status", 5}}, {},
                            {value({.key = "kept", .seq = 5}, clock_.now()),
                             value({.key = "newer", .seq = 3}, clock_.now())}));
    EXPECT_EQ(cache_.find("nas", "system.status", "gone"), nullptr);
    EXPECT_EQ(cache_.find("nas", "system.status", "newer")->seq, 6u);
    EXPECT_EQ(cache_.find("nas", "system.status", "kept")->seq, 5u);
    EXPECT_EQ(cache_.entries(), 2u);
}

TEST_F(CacheTest, AnotherEpochReplacesEverything) {
    cache_.replace(snapshot(1, {}));
    ASSERT_TRUE(cache_.put(value({.seq = 6}, clock_.now())));
    cache_.replace(snapshot(2, {}, {}, {}, "another"));
    EXPECT_EQ(cache_.entries(), 0u);
    EXPECT_EQ(cache_.epoch(), "another");
}

TEST_F(CacheTest, AValueThatCameBeforeTheFirstReportOfItsPollIsLive) {
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    cache_.poll(poll_state({}, 0, Age{}));
    EXPECT_EQ(quality("system.status"), Quality::kLive);
}

TEST_F(CacheTest, AHeadVouchesOnlyForTheTopicThatItNames) {
    for (const std::string topic : {"mine", "left"}) {
        ASSERT_TRUE(cache_.put(value({.topic = topic, .poll = state_poll(topic)}, clock_.now())));
        cache_.poll(state_poll_state(topic, 1, stale(clock_.now(), "PRODUCER_SILENT")));
        EXPECT_EQ(quality(topic), Quality::kStale);
    }
    cache_.poll(state_poll_state("mine", 2, live(clock_.now())));
    EXPECT_EQ(quality("mine"), Quality::kLive);
    EXPECT_EQ(quality("left"), Quality::kStale);
}

TEST_F(CacheTest, StateThatNoPollFeedsIsAsOldAsTheNewestHeadThatVouchedForIt) {
    const Make made{.topic = "mine", .key = "a", .poll = state_poll("mine")};
    ASSERT_TRUE(cache_.put(value(made, clock_.now())));
    clock_.advance(Seconds{600});
    cache_.poll(state_poll_state("mine", 2, live(clock_.now())));
    EXPECT_EQ(cache_.find("nas", "mine", "a")->age.as_of->mono, clock_.now().mono);
}

/// The next head may never come: who asks then is to be told what was told to all.
TEST_F(CacheTest, ATransitionOfStateThatNoPollFeedsMovesAsOfOfTheKeysThatItNames) {
    const Mono before = clock_.now().mono;
    for (const std::string key : {"left", "mine"}) {
        const Make made{.topic = "t", .key = key, .poll = state_poll("t")};
        ASSERT_TRUE(cache_.put(value(made, clock_.now())));
    }
    clock_.advance(Seconds{60});
    Message told = transition({.topic = "t", .poll = state_poll("t"), .seq = 9}, live(clock_.now()),
                              clock_.now());
    told.keys = {"mine"};
    cache_.transition(told);
    EXPECT_EQ(cache_.find("nas", "t", "mine")->age.as_of->mono, clock_.now().mono);
    EXPECT_EQ(cache_.find("nas", "t", "left")->age.as_of->mono, before);
}

TEST_F(CacheTest, KeysThatAnEarlierInstanceLeftAreStaleWithTheTimeTheyHad) {
    const Mono before = clock_.now().mono;
    for (const std::string key : {"left", "mine"}) {
        const Make made{.topic = "t", .key = key, .poll = state_poll("t")};
        ASSERT_TRUE(cache_.put(value(made, clock_.now())));
    }
    clock_.advance(Seconds{60});
    const auto change = cache_.poll(state_poll_state("t", 2, live(clock_.now()), {{"mine"}}));
    EXPECT_EQ(change.left, std::vector<std::string>{"left"});
    EXPECT_EQ(quality("t", "mine"), Quality::kLive);
    const Age& left = cache_.find("nas", "t", "left")->age;
    EXPECT_EQ(left.quality, Quality::kStale);
    EXPECT_EQ(left.reason, "PRODUCER_SILENT");
    EXPECT_EQ(left.as_of->mono, before);
}

TEST_F(CacheTest, AnUnloggedValueFromBeforeTheSnapshotDoesNotReplaceItsNewerOne) {
    const Message early = unlogged(value({.json = R"({"n":1})"}, clock_.now()));
    clock_.advance(Seconds{5});
    const Message newer = value({.json = R"({"n":2})", .seq = 7}, clock_.now());
    cache_.replace(snapshot(1, {{"nas", "system.status", 7}}, {}, {newer}));
    const auto put = cache_.put(early);
    ASSERT_TRUE(put);
    EXPECT_EQ(*put, nullptr);
    EXPECT_EQ(*cache_.find("nas", "system.status", "")->json, R"({"n":2})");
}

TEST_F(CacheTest, AnUnloggedValueOfAClockThatWasSetBackIsNotTakenForAnOldOne) {
    ASSERT_TRUE(cache_.put(value({.json = R"({"n":1})"}, clock_.now())));
    clock_.advance(Seconds{5});
    Message newer = unlogged(value({.json = R"({"n":2})"}, clock_.now()));
    newer.at -= Seconds{3'600};
    ASSERT_TRUE(cache_.put(newer));
    EXPECT_EQ(*cache_.find("nas", "system.status", "")->json, R"({"n":2})");
}

TEST_F(CacheTest, ASnapshotEndsThePollsThatItDoesNotHold) {
    cache_.replace(snapshot(1, {}, {poll_state({.origin = "old"}, 1, live(clock_.now()))}));
    cache_.replace(snapshot(2, {}, {poll_state({}, 1, live(clock_.now()))}, {}, "another"));
    ASSERT_EQ(cache_.polls().size(), 1u);
    EXPECT_EQ(cache_.polls()[0]->state.origin, "nas");
    EXPECT_EQ(cache_.find_poll("old", "system.status"), nullptr);
}

TEST_F(CacheTest, APollThatFeedsAnotherTopicFromNowOnIsToldUnderThatOne) {
    cache_.poll(poll_state({.topic = "before"}, 1, live(clock_.now())));
    cache_.poll(poll_state({.topic = "after"}, 2, live(clock_.now())));
    EXPECT_EQ(cache_.polls()[0]->stream->topic, "after");
}

}  // namespace
}  // namespace sigmacast::edge
