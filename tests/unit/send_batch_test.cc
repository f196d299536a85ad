#include "edge/send_batch.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <deque>
#include <string>
#include <utility>

#include "edge/wire.h"

namespace sigmacast::edge {
namespace {

/// A socket, and the other end of it.
class Pair {
 public:
    Pair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_.data()), 0); }
    ~Pair() {
        ::close(ends_[0]);
        leave();
    }
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    [[nodiscard]] int socket() const { return ends_[0]; }
    /// What has come.
    [[nodiscard]] std::string read() const {
        std::string all;
        std::array<char, 65'536> buffer;
        for (ssize_t n = 0; (n = ::recv(ends_[1], buffer.data(), buffer.size(), 0)) > 0;) {
            all.append(buffer.data(), static_cast<std::size_t>(n));
        }
        return all;
    }
    void leave() { ::close(std::exchange(ends_[1], -1)); }
    void fill() const {
        while (::send(ends_[0], "x", 1, MSG_DONTWAIT) > 0) {
        }
    }

 private:
    std::array<int, 2> ends_{};
};

class SendBatchTest : public ::testing::Test {
 protected:
    void SetUp() override {
        auto made = SendBatch::make();
        if (!made) {
            GTEST_SKIP() << made.error().message;
        }
        batch_ = std::move(*made);
    }

    Outbox& outbox(const std::string& text) {
        outboxes_.emplace_back().append(std::make_shared<const std::string>(text));
        return outboxes_.back();
    }
    void add(const Pair& pair, Outbox& outbox) { batch_->add(pair.socket(), outbox, counters_); }
    void send() { batch_->send(counters_); }

    std::unique_ptr<SendBatch> batch_;
    std::deque<Outbox> outboxes_;
    WireCounters counters_;
};

TEST_F(SendBatchTest, WhatWaitsForManySocketsLeavesByOneSystemCall) {
    std::deque<Pair> pairs(100);
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        Outbox& mine = outbox(std::to_string(i));
        if (i % 2 == 1) {
            mine.append(std::make_shared<const std::string>(" and more"));
        }
        add(pairs[i], mine);
    }
    EXPECT_EQ(counters_.flushes, 0u);
    send();
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        EXPECT_EQ(pairs[i].read(), std::to_string(i) + (i % 2 == 1 ? " and more" : ""));
        EXPECT_TRUE(outboxes_[i].empty());
    }
    EXPECT_EQ(counters_.batches, 1u);
    EXPECT_EQ(counters_.batched, 100u);
    EXPECT_EQ(counters_.flushes, 100u);
    EXPECT_EQ(counters_.bytes, 10u + 90u * 2 + 50u * 9);
}

TEST_F(SendBatchTest, ASecondSendRepeatsNothing) {
    const Pair pair;
    add(pair, outbox("once"));
    send();
    send();
    EXPECT_EQ(pair.read(), "once");
    EXPECT_EQ(counters_.batches, 1u);
}

TEST_F(SendBatchTest, WhatASocketDoesNotTakeStaysInItsOutbox) {
    const Pair pair;
    std::string all;
    for (int i = 0; i < 64; ++i) {
        all += std::string(20'000, static_cast<char>('0' + i));
    }
    Outbox& mine = outbox(all.substr(0, 20'000));
    for (std::size_t i = 1; i < 64; ++i) {
        mine.append(std::make_shared<const std::string>(all.substr(i * 20'000, 20'000)));
    }
    std::string came;
    for (int turns = 0; !mine.empty(); ++turns) {
        ASSERT_LT(turns, 100);
        add(pair, mine);
        send();
        came += pair.read();
        ASSERT_EQ(came.size(), mine.sent());
    }
    EXPECT_GT(counters_.flushes, 1u) << "the socket took it in one go: nothing was tested";
    EXPECT_TRUE(came == all);
}

TEST_F(SendBatchTest, AFullSocketAndADeadOneKeepTheirBytesAndHoldNobodyUp) {
    const Pair full;
    Pair dead;
    const Pair good;
    full.fill();
    dead.leave();
    Outbox& to_full = outbox("for later");
    Outbox& to_dead = outbox("for nobody");
    add(full, to_full);
    add(dead, to_dead);
    add(good, outbox("hello"));
    send();
    EXPECT_EQ(good.read(), "hello");
    EXPECT_EQ(to_full.bytes(), 9u);
    EXPECT_EQ(to_dead.bytes(), 10u);
    EXPECT_EQ(counters_.flushes, 1u);
    EXPECT_FALSE(batch_->broken());
    // And nothing of them comes after all.
    EXPECT_EQ(full.read().find('f'), std::string::npos);
}

TEST_F(SendBatchTest, MoreThanFitGoInTurnsAndInOrder) {
    const Pair pair;
    std::string all;
    for (std::size_t i = 0; i < SendBatch::kSocketsMax + 10; ++i) {
        all += std::to_string(i) + " ";
        add(pair, outbox(std::to_string(i) + " "));
    }
    EXPECT_EQ(counters_.batches, 1u);
    send();
    EXPECT_EQ(counters_.batches, 2u);
    EXPECT_EQ(pair.read(), all);
}

TEST_F(SendBatchTest, ManyFramesForEachGoInTurnsToo) {
    std::deque<Pair> pairs(SendBatch::kPartsMax / Outbox::kPartsMax + 6);
    for (const Pair& pair : pairs) {
        Outbox& mine = outbox("a");
        for (std::size_t i = 1; i < Outbox::kPartsMax; ++i) {
            mine.append(std::make_shared<const std::string>("b"));
        }
        add(pair, mine);
    }
    send();
    EXPECT_EQ(counters_.batches, 2u);
    for (const Pair& pair : pairs) {
        EXPECT_EQ(pair.read(), "a" + std::string(Outbox::kPartsMax - 1, 'b'));
    }
}

/// In a process of its own, from here on refused this system call.
void forbid(unsigned call) {
    std::array<sock_filter, 4> filter{{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                                       BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
                                       BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                                       BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
    const sock_fprog program{.len = filter.size(), .filter = filter.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        ::_exit(100);
    }
}

/// What a child that does this exits with.
template <class Work>
int exit_of(Work work) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(work());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(SendBatchTest, WhereItIsForbiddenThereIsNoneAndAReason) {
    for (const auto& [call, name] :
         {std::pair{__NR_io_uring_setup, "io_uring_setup: Operation not permitted"},
          {__NR_io_uring_enter, "io_uring_enter: Operation not permitted"}}) {
        EXPECT_EQ(exit_of([&] {
                      forbid(static_cast<unsigned>(call));
                      const auto made = SendBatch::make();
                      return made || made.error().message.find(name) != 0 ? 1 : 0;
                  }),
                  0)
            << name;
    }
}

TEST_F(SendBatchTest, WhereTheKernelFailsItEveryByteStaysAndItIsSaid) {
    EXPECT_EQ(exit_of([&] {
                  const Pair pair;
                  const auto own = SendBatch::make();
                  forbid(__NR_io_uring_enter);
                  Outbox& mine = outbox("for the socket's owner");
                  (*own)->add(pair.socket(), mine, counters_);
                  (*own)->send(counters_);
                  const bool kept = (*own)->broken() && mine.bytes() == 22;
                  (*own)->add(pair.socket(), mine, counters_);
                  (*own)->send(counters_);
                  return kept && mine.bytes() == 22 && pair.read().empty() ? 0 : 1;
              }),
              0);
}

}  // namespace
}  // namespace sigmacast::edge
