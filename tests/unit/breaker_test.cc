#include "producer/breaker.h"

#include <gtest/gtest.h>

namespace sigmacast::producer {
namespace {

using namespace std::chrono_literals;

class BreakerTest : public testing::Test {
 protected:
    Now now() const { return {Mono{} + elapsed_, Wall{} + elapsed_}; }
    void pass(Millis time) { elapsed_ += time; }
    void fail(int times) {
        for (int i = 0; i < times; ++i) {
            breaker_.on_failure(now(), "refused", false);
            pass(5s);
        }
    }
    bool may_call() const { return breaker_.may_call(now().mono); }
    void open() {
        fail(5);
        ASSERT_EQ(BreakerState::kOpen, breaker_.state());
    }

    Millis elapsed_{1000};
    Breaker breaker_{"system.status", {.failures = 5, .reset = 300s}};
};

TEST_F(BreakerTest, FourFailuresLeaveItClosed) {
    fail(4);
    EXPECT_EQ(BreakerState::kClosed, breaker_.state());
    EXPECT_EQ(4u, breaker_.failures());
    EXPECT_TRUE(may_call());
}

TEST_F(BreakerTest, TheFifthFailureInARowOpensIt) {
    fail(4);
    const auto transition = breaker_.on_failure(now(), "refused", false);
    ASSERT_TRUE(transition);
    EXPECT_EQ(BreakerState::kOpen, transition->to);
    EXPECT_EQ(now().mono + 300s, breaker_.retry_at()->mono);
    EXPECT_EQ(now().wall, breaker_.opened_at()->wall);
    EXPECT_EQ("refused", breaker_.last_error());
}

TEST_F(BreakerTest, ASuccessBetweenFailuresStartsTheCountAnew) {
    fail(4);
    EXPECT_FALSE(breaker_.on_success());
    fail(4);
    EXPECT_EQ(BreakerState::kClosed, breaker_.state());
}

TEST_F(BreakerTest, NoCallIsAllowedUntilTheResetTimeToTheMillisecond) {
    fail(4);
    breaker_.on_failure(now(), "refused", false);
    pass(300s - 1ms);
    EXPECT_FALSE(may_call());
    pass(1ms);
    EXPECT_TRUE(may_call());
}

TEST_F(BreakerTest, ExactlyOneProbeIsAllowed) {
    open();
    pass(300s);
    const auto transition = breaker_.on_call(now());
    ASSERT_TRUE(transition);
    EXPECT_EQ(BreakerState::kHalfOpen, transition->to);
    EXPECT_FALSE(may_call());
    pass(10h);
    EXPECT_FALSE(may_call());
}

TEST_F(BreakerTest, ASuccessfulProbeClosesIt) {
    open();
    pass(300s);
    breaker_.on_call(now());
    const auto transition = breaker_.on_success();
    ASSERT_TRUE(transition);
    EXPECT_EQ(BreakerState::kHalfOpen, transition->from);
    EXPECT_EQ(BreakerState::kClosed, transition->to);
    EXPECT_EQ(0u, breaker_.failures());
    EXPECT_FALSE(breaker_.opened_at());
    EXPECT_FALSE(breaker_.retry_at());
}

TEST_F(BreakerTest, AFailedProbeOpensItForAnotherResetTime) {
    open();
    const Now opened = *breaker_.opened_at();
    pass(300s);
    breaker_.on_call(now());
    pass(3s);
    ASSERT_TRUE(breaker_.on_failure(now(), "timeout", true));
    EXPECT_EQ(BreakerState::kOpen, breaker_.state());
    EXPECT_EQ(now().mono + 300s, breaker_.retry_at()->mono);
    EXPECT_EQ(opened.mono, breaker_.opened_at()->mono) << "it has not been closed since";
    EXPECT_EQ(6u, breaker_.failures());
}

TEST_F(BreakerTest, ALateFailureSaysNothingNewWhileItIsOpenOrProbing) {
    open();
    const Mono retry_at = breaker_.retry_at()->mono;
    fail(1);
    EXPECT_EQ(retry_at, breaker_.retry_at()->mono);
    EXPECT_EQ(5u, breaker_.failures());
    pass(300s);
    breaker_.on_call(now());
    fail(1);
    EXPECT_EQ(BreakerState::kHalfOpen, breaker_.state());
}

TEST_F(BreakerTest, ALateAnswerClosesItFromOpen) {
    open();
    ASSERT_TRUE(breaker_.on_success());
    EXPECT_TRUE(may_call());
}

TEST_F(BreakerTest, ASignOfLifeAllowsTheProbeAtOnceAndNoMoreThanOne) {
    open();
    breaker_.allow_probe_now(now());
    EXPECT_TRUE(may_call());
    breaker_.on_call(now());
    breaker_.allow_probe_now(now());
    EXPECT_FALSE(may_call());
}

TEST_F(BreakerTest, ASignOfLifeDoesNotPutADueProbeOff) {
    open();
    pass(400s);
    const Mono retry_at = breaker_.retry_at()->mono;
    breaker_.allow_probe_now(now());
    EXPECT_EQ(retry_at, breaker_.retry_at()->mono);
}

TEST(FailureRounds, EightPollsInOneBlipAreOneFailure) {
    FailureRounds rounds;
    int counted = 0;
    for (const char* poll : {"a", "b", "c", "d", "e", "f", "g", "h"}) {
        counted += rounds.on_failure(poll, 5s, Mono{} + 100s) ? 1 : 0;
    }
    EXPECT_EQ(1, counted);
}

TEST(FailureRounds, EachRoundOfFailingPollsCountsOnceWhateverTheirJitter) {
    FailureRounds rounds;
    int counted = 0;
    for (int round = 0; round < 5; ++round) {
        const Millis jitter = round % 2 == 0 ? 0ms : 240ms;
        counted += rounds.on_failure("a", 5s, Mono{} + round * 5s + 250ms - jitter) ? 1 : 0;
        counted += rounds.on_failure("b", 5s, Mono{} + round * 5s + 3s + jitter) ? 1 : 0;
    }
    EXPECT_EQ(5, counted);
}

TEST(FailureRounds, APollWithALongIntervalCountsAgainWhenItsIntervalHasPassed) {
    FailureRounds rounds;
    EXPECT_TRUE(rounds.on_failure("a", 60s, Mono{}));
    EXPECT_FALSE(rounds.on_failure("b", 60s, Mono{} + 59s));
    EXPECT_TRUE(rounds.on_failure("c", 60s, Mono{} + 60s));
}

TEST(FailureRounds, ASuccessEndsTheRound) {
    FailureRounds rounds;
    EXPECT_TRUE(rounds.on_failure("a", 5s, Mono{}));
    rounds.on_success();
    EXPECT_TRUE(rounds.on_failure("b", 5s, Mono{} + 1s));
}

}  // namespace
}  // namespace sigmacast::producer
