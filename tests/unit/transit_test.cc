#include "common/transit.h"

#include <gtest/gtest.h>

namespace sigmacast {
namespace {

constexpr std::uint64_t kOwn = 1;
constexpr std::uint64_t kOther = 2;

Mono at(Millis since_boot) {
    return Mono{since_boot};
}

class TransitTest : public testing::Test {
 protected:
    /// How long the message counts as having waited.
    Millis waited(std::uint64_t clock, Millis stamped, Millis arrived) {
        return elapsed(transit_.sent({clock, at(stamped)}, at(arrived)), at(arrived));
    }

    Transit transit_{kOwn};
};

TEST_F(TransitTest, UnderOneKernelTheWaitIsExactFromTheFirstMessageOn) {
    EXPECT_EQ(Millis(10'000), waited(kOwn, Millis(5'000), Millis(15'000)));
    EXPECT_EQ(Millis(0), waited(kOwn, Millis(15'001), Millis(15'001)));
}

TEST_F(TransitTest, AStampFromTheFutureCountsAsJustSent) {
    EXPECT_EQ(Millis(0), waited(kOwn, Millis(20'000), Millis(15'000)));
}

TEST_F(TransitTest, AnotherMachinesClockIsComparedWithItselfOnly) {
    // It booted long before this one, and the link takes 3 ms.
    EXPECT_EQ(Millis(0), waited(kOther, Millis(9'000'000), Millis(1'003)));
    EXPECT_EQ(Millis(0), waited(kOther, Millis(9'001'000), Millis(2'003)));
    EXPECT_EQ(Millis(8'000), waited(kOther, Millis(9'002'000), Millis(11'003)));
    EXPECT_EQ(Millis(1), waited(kOther, Millis(9'010'000), Millis(11'004)));
}

TEST_F(TransitTest, AFasterMessageTellsThatEarlierOnesHadWaited) {
    EXPECT_EQ(Millis(0), waited(kOther, Millis(0), Millis(500)));
    EXPECT_EQ(Millis(0), waited(kOther, Millis(600), Millis(603)));
    EXPECT_EQ(Millis(497), waited(kOther, Millis(1'000), Millis(1'500)));
}

TEST_F(TransitTest, ALongSilenceForgetsNothing) {
    waited(kOther, Millis(0), Millis(3));
    const Millis frozen = std::chrono::hours(1);
    EXPECT_EQ(frozen, waited(kOther, Millis(1'000), Millis(1'003) + frozen));
    EXPECT_EQ(frozen - Millis(500), waited(kOther, Millis(1'500), Millis(1'003) + frozen));
}

TEST_F(TransitTest, ClocksThatDriftApartAreFollowed) {
    // The other clock loses 100 ppm: without a window its messages would seem to wait ever longer.
    const Millis step = Seconds(10);
    Millis most{0};
    for (int i = 1; i <= 8'640; ++i) {
        most = std::max(most, waited(kOther, i * step - Millis(i), i * step));
    }
    EXPECT_LE(most, Millis(61)) << "at most two windows of drift";
}

TEST_F(TransitTest, ClocksAreKeptApartAndAreBounded) {
    waited(kOther, Millis(0), Millis(1'000));
    EXPECT_EQ(Millis(0), waited(3, Millis(0), Millis(9'000)));
    EXPECT_EQ(Millis(500), waited(kOther, Millis(0), Millis(1'500)));
    for (std::uint64_t clock = 100; clock < 10'100; ++clock) {
        waited(clock, Millis(0), Millis(20'000 + static_cast<int>(clock)));
    }
    EXPECT_EQ(Millis(0), waited(kOther, Millis(0), Millis(40'000))) << "the oldest is forgotten";
}

TEST(StampTest, GoesThroughItsBytes) {
    const Stamp stamp{0xFEDCBA9876543210, at(Millis(123'456'789))};
    const auto read = Stamp::read(stamp.bytes());
    ASSERT_TRUE(read);
    EXPECT_EQ(stamp.clock, read->clock);
    EXPECT_EQ(stamp.at, read->at);
}

TEST(StampTest, WhatIsNoStampIsNotRead) {
    const std::string good = Stamp{1, at(Millis(5))}.bytes();
    EXPECT_FALSE(Stamp::read(""));
    EXPECT_FALSE(Stamp::read(good.substr(1)));
    EXPECT_FALSE(Stamp::read(good + "x"));
    std::string msgpack = good;
    msgpack[0] = '\x81';
    EXPECT_FALSE(Stamp::read(msgpack));
    std::string ages_ago = good;
    ages_ago.replace(good.size() - 8, 8, "\xff\xff\xff\xff\xff\xff\xff\xff");
    EXPECT_FALSE(Stamp::read(ages_ago));
}

TEST(StampTest, TheClockOfThisProcessIsAlwaysTheSame) {
    EXPECT_EQ(clock_id(), clock_id());
    EXPECT_NE(0U, clock_id());
}

}  // namespace
}  // namespace sigmacast
