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

TEST_F(CacheTest, WhatCannotBecomeJsonIsRefusedAndTheOldValueStays) {
    ASSERT_TRUE(cache_.put(value({}, clock_.now())));
    Message bad = value({.seq = 2}, clock_.now());
    bad.data = std::make_shared<const std::string>("\xdd\xff\xff\xff\xff");
    EXPECT_FALSE(cache_.put(bad));
    EXPECT_EQ(cache_.find("nas", "system.status", "")->seq, 1u);
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

TEST_F(CacheTest, StateWithoutAPollFollowsItsOrigin) {
    ASSERT_TRUE(
        cache_.put(value({.topic = "breaker.status", .key = "x", .poll = ""}, clock_.now())));
    cache_.poll(poll_state({.topic = "", .poll = ""}, 0, stale(clock_.now(), "PRODUCER_SILENT")));
    EXPECT_EQ(quality("breaker.status", "x"), Quality::kStale);
}

}  // namespace
}  // namespace sigmacast::edge
