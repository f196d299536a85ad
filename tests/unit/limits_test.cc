// What counts, purely: the rate of a client's frames, and who has how many connections.
#include <gtest/gtest.h>

#include <utility>

#include "common/tally.h"
#include "edge/rate.h"

namespace sigmacast::edge {
namespace {

using Verdict = RateLimit::Verdict;

Mono at(Millis since) {
    return Mono{Seconds{1'000}} + since;
}

/// How many of so many at once get this verdict.
int count(RateLimit& rate, int frames, Verdict verdict, Millis now) {
    int count = 0;
    for (int i = 0; i < frames; ++i) {
        count += rate.take(at(now)) == verdict ? 1 : 0;
    }
    return count;
}

TEST(RateLimit, TwoSecondsWorthMayComeAtOnceThenAsMuchIsRefusedAndThenItIsAFlood) {
    RateLimit rate(10);
    EXPECT_EQ(count(rate, 20, Verdict::kFine, Millis{0}), 20);
    EXPECT_EQ(count(rate, 20, Verdict::kOver, Millis{0}), 20);
    EXPECT_EQ(rate.take(at(Millis{0})), Verdict::kFlood);
}

TEST(RateLimit, WhoKeepsToTheRateIsNeverRefused) {
    RateLimit rate(10);
    EXPECT_EQ(count(rate, 20, Verdict::kFine, Millis{0}), 20);
    for (int i = 1; i < 1'000; ++i) {
        ASSERT_EQ(rate.take(at(Millis{100 * i})), Verdict::kFine) << i;
    }
}

TEST(RateLimit, WhoStopsIsForgivenBitByBitAndNeverHasMoreThanABurst) {
    RateLimit rate(10);
    EXPECT_EQ(count(rate, 30, Verdict::kFine, Millis{0}), 20);
    EXPECT_EQ(count(rate, 1, Verdict::kOver, Millis{900}), 1);
    EXPECT_EQ(count(rate, 1, Verdict::kFine, Millis{1'200}), 1);
    EXPECT_EQ(count(rate, 25, Verdict::kFine, Millis{60'000}), 20);
}

TEST(RateLimit, ZeroIsNoLimit) {
    RateLimit rate(0);
    EXPECT_EQ(count(rate, 100'000, Verdict::kFine, Millis{0}), 100'000);
}

TEST(Tally, ASeatIsCountedWhileItLivesAndAnEmptyKeyNever) {
    Tally tally;
    {
        Tally::Seat first = tally.take("ann");
        Tally::Seat second = tally.take("ann");
        EXPECT_TRUE(tally.full("ann", 2));
        EXPECT_FALSE(tally.full("ann", 3));
        EXPECT_FALSE(tally.full("ann", 0)) << "no limit";
        EXPECT_FALSE(tally.full("bob", 1));
        Tally::Seat moved = std::move(first);
        EXPECT_EQ(tally.count("ann"), 2U);
        second = Tally::Seat{};
        EXPECT_EQ(tally.count("ann"), 1U);
        const Tally::Seat nobody = tally.take("");
        EXPECT_FALSE(tally.full("", 1));
    }
    EXPECT_EQ(tally.keys(), 0U);
}

TEST(Tally, ASeatMayOutliveIt) {
    Tally::Seat seat;
    Tally tally;
    seat = tally.take("ann");
    tally = Tally{};
    EXPECT_EQ(tally.count("ann"), 0U);
}

}  // namespace
}  // namespace sigmacast::edge
