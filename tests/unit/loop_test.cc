#include "common/loop.h"

#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace sigmacast {
namespace {

Mono soon(int ms) {
    return BootClock::now() + Millis(ms);
}

class LoopTest : public testing::Test {
 protected:
    /// Runs until the loop is stopped, or fails after ten seconds.
    void run() {
        Timer limit(loop_, [&] {
            ADD_FAILURE() << "nothing stopped the loop";
            loop_.stop();
        });
        limit.set(soon(10'000));
        loop_.run();
    }

    Loop loop_;
};

TEST_F(LoopTest, RunsWhatIsPostedInOrder) {
    std::vector<int> seen;
    loop_.post([&] { seen.push_back(1); });
    loop_.post([&] { seen.push_back(2); });
    loop_.post([&] { loop_.stop(); });
    run();
    EXPECT_EQ(seen, (std::vector<int>{1, 2}));
}

TEST_F(LoopTest, RunsWhatAnotherThreadPostsOnItsOwnThread) {
    std::thread::id ran_on;
    std::thread other([&] {
        loop_.post([&] {
            ran_on = std::this_thread::get_id();
            loop_.stop();
        });
    });
    run();
    other.join();
    EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST_F(LoopTest, RunsAgainAfterAStop) {
    int runs = 0;
    for (int i = 0; i < 2; ++i) {
        loop_.post([&] {
            ++runs;
            loop_.stop();
        });
        run();
    }
    EXPECT_EQ(runs, 2);
}

TEST_F(LoopTest, TimersFireInTheOrderOfTheirTimesAndNotBefore) {
    std::vector<int> order;
    const Mono second_at = soon(30);
    Mono second_fired{};
    Timer second(loop_, [&] {
        order.push_back(2);
        second_fired = BootClock::now();
        loop_.stop();
    });
    Timer first(loop_, [&] { order.push_back(1); });
    second.set(second_at);
    first.set(soon(5));
    run();
    EXPECT_EQ(order, (std::vector<int>{1, 2}));
    EXPECT_GE(second_fired, second_at);
}

TEST_F(LoopTest, ATimeInThePastFiresSoonButNotAtOnce) {
    bool fired = false;
    Timer timer(loop_, [&] {
        fired = true;
        loop_.stop();
    });
    timer.set(soon(-1'000));
    EXPECT_FALSE(fired);
    run();
    EXPECT_TRUE(fired);
}

TEST_F(LoopTest, SettingATimerAgainReplacesItsTime) {
    int fired = 0;
    Timer timer(loop_, [&] { ++fired; });
    timer.set(soon(1));
    timer.set(soon(20));
    Timer end(loop_, [&] { loop_.stop(); });
    end.set(soon(40));
    run();
    EXPECT_EQ(fired, 1);
}

// Both timers are due when the loop looks, so the second one's wake is already queued when the
// first cancels it.
TEST_F(LoopTest, ATimerThatIsSetToTheSameTimeAgainAndAgainStillFires) {
    bool fired = false;
    Timer timer(loop_, [&] {
        fired = true;
        loop_.stop();
    });
    const Mono due = soon(2);
    const Mono patience = soon(2'000);
    std::function<void()> input = [&] {  // Input that never ends; each batch sets the timer.
        timer.set(due);
        if (BootClock::now() < patience) {
            loop_.post(input);
        } else {
            loop_.stop();
        }
    };
    loop_.post(input);
    run();
    EXPECT_TRUE(fired);
}

TEST_F(LoopTest, ATimerThatWasCancelledWhileItsWakeWasQueuedDoesNotFire) {
    int fired = 0;
    std::unique_ptr<Timer> a;
    std::unique_ptr<Timer> b;
    a = std::make_unique<Timer>(loop_, [&] {
        ++fired;
        b->set(std::nullopt);
    });
    b = std::make_unique<Timer>(loop_, [&] {
        ++fired;
        a->set(std::nullopt);
    });
    a->set(soon(-5));
    b->set(soon(-5));
    Timer end(loop_, [&] { loop_.stop(); });
    end.set(soon(20));
    run();
    EXPECT_EQ(fired, 1);
}

TEST_F(LoopTest, ATimerThatWasDestroyedWhileItsWakeWasQueuedDoesNotFire) {
    int fired = 0;
    auto a = std::make_unique<Timer>(loop_, [] {});
    auto b = std::make_unique<Timer>(loop_, [] {});
    a = std::make_unique<Timer>(loop_, [&] {
        ++fired;
        b.reset();
    });
    b = std::make_unique<Timer>(loop_, [&] {
        ++fired;
        a.reset();
    });
    a->set(soon(-5));
    b->set(soon(-5));
    Timer end(loop_, [&] { loop_.stop(); });
    end.set(soon(20));
    run();
    EXPECT_EQ(fired, 1);
}

TEST_F(LoopTest, ATimerMayDestroyItselfAndSetItself) {
    int fired = 0;
    std::unique_ptr<Timer> timer;
    timer = std::make_unique<Timer>(loop_, [&] {
        if (++fired < 3) {
            timer->set(soon(0));
            return;
        }
        timer.reset();
        loop_.stop();
    });
    timer->set(soon(0));
    run();
    EXPECT_EQ(fired, 3);
}

TEST_F(LoopTest, TellsOfTheFirstSigterm) {
    int told = 0;
    loop_.on_terminate([&] {
        ++told;
        loop_.stop();
    });
    loop_.post([] { std::raise(SIGTERM); });
    run();
    EXPECT_EQ(told, 1);
}

TEST(LoopDeathTest, ASecondSigtermEndsTheProcess) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    EXPECT_EXIT(
        {
            Loop loop;
            loop.on_terminate([] { std::raise(SIGTERM); });
            loop.post([] { std::raise(SIGTERM); });
            loop.run();
        },
        testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace sigmacast
