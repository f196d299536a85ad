#include "common/bus.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

namespace sigmacast::bus {
namespace {

/// Nodes over ipc sockets in a folder of their own.
class BusTest : public testing::Test {
 protected:
    BusTest() {
        std::string name = "/tmp/sgXXXXXX";
        folder_ = ::mkdtemp(name.data());
    }
    ~BusTest() override { std::filesystem::remove_all(folder_); }

    std::string endpoint(const std::string& name) const { return "ipc://" + folder_ + "/" + name; }

    std::unique_ptr<Node> node(SocketOptions options, std::vector<Incoming>* into = nullptr) {
        auto made = std::make_unique<Node>(
            loop_, std::vector{std::move(options)}, [this, into](std::vector<Incoming> batch) {
                largest_batch_ = std::max(largest_batch_, batch.size());
                for (Incoming& incoming : batch) {
                    if (into != nullptr) {
                        into->push_back(std::move(incoming));
                    }
                }
            });
        return made;
    }

    std::unique_ptr<Node> started(SocketOptions options, std::vector<Incoming>* into = nullptr) {
        auto made = node(std::move(options), into);
        const Result<> result = made->start();
        EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().message);
        return made;
    }

    /// Runs the loop until `done`, or fails after ten seconds; calls `meanwhile` every few
    /// milliseconds.
    void run_until(
        const std::function<bool()>& done, const std::function<void()>& meanwhile = [] {}) {
        const Mono limit = BootClock::now() + Seconds(10);
        bool in_time = true;
        Timer look(loop_, [&] {
            in_time = BootClock::now() < limit;
            if (done() || !in_time) {
                loop_.stop();
                return;
            }
            meanwhile();
            look.set(BootClock::now() + Millis(2));
        });
        look.set(BootClock::now());
        loop_.run();
        ASSERT_TRUE(in_time) << "not done within ten seconds";
    }

    std::string folder_;
    Loop loop_;
    std::size_t largest_batch_ = 0;
};

/// Somebody else at a socket's address: takes one connection, says `words`, waits for its end.
void answer_once(const std::string& path, const std::string& words) {
    const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(path.begin(), path.end(), std::begin(address.sun_path));
    ASSERT_EQ(0, ::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address));
    ASSERT_EQ(0, ::listen(listener, 1));
    const int peer = ::accept(listener, nullptr, nullptr);
    ::close(listener);
    ASSERT_EQ(static_cast<ssize_t>(words.size()), ::write(peer, words.data(), words.size()));
    std::string heard(4096, ' ');
    while (::read(peer, heard.data(), heard.size()) > 0) {
    }
    ::close(peer);
    std::filesystem::remove(path);
}

/// ZMTP 3.1 of a ROUTER without a key, as it greets and says that it is ready.
const std::string kGreeting = std::string("\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL", 16) +
                              std::string(48, '\0') +
                              std::string("\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER", 30);

TEST_F(BusTest, AConnectionThatGarbageHasBrokenIsMadeAnewWhereZeromqWouldGiveItUp) {
    std::vector<Incoming> asked;
    const auto dealer = started({.type = SocketType::kDealer, .endpoint = endpoint("r")});
    answer_once(folder_ + "/r", kGreeting + std::string(200, '\xff'));
    const auto router =
        started({.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true}, &asked);
    run_until([&] { return !asked.empty(); },
              [&] { static_cast<void>(dealer->send(0, {"hello"})); });
    EXPECT_EQ(asked.at(0).frames.at(1), "hello");
}

TEST_F(BusTest, ADealerAsksARouterAndGetsTheAnswer) {
    std::vector<Incoming> asked;
    std::vector<Incoming> answered;
    const auto router = started(
        {.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true, .subscribe = {}},
        &asked);
    const auto dealer = started(
        {.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}}, &answered);
    EXPECT_TRUE(dealer->send(0, {"hello", "", std::string(100'000, 'x')}));
    run_until([&] { return asked.size() == 1; });
    ASSERT_EQ(asked[0].frames.size(), 4u);
    EXPECT_EQ(asked[0].frames[1], "hello");
    EXPECT_EQ(asked[0].frames[2], "");
    EXPECT_EQ(asked[0].frames[3], std::string(100'000, 'x'));
    EXPECT_TRUE(router->send(0, {asked[0].frames[0], "welcome"}));
    run_until([&] { return answered.size() == 1; });
    EXPECT_EQ(answered[0].frames, Frames{"welcome"});
}

TEST_F(BusTest, AMessageSaysWhenItWasSentHoweverLongItWaited) {
    std::vector<Incoming> asked;
    const auto router =
        node({.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true}, &asked);
    const auto dealer = started({.type = SocketType::kDealer, .endpoint = endpoint("r")});
    const Mono before = BootClock::now();
    EXPECT_TRUE(dealer->send(0, {"hello"}));
    const Mono after = BootClock::now();
    const Result<> late = router->start();  // As if it had been frozen.
    ASSERT_TRUE(late) << late.error().message;
    run_until([&] { return asked.size() == 1; });
    ASSERT_EQ(2u, asked[0].frames.size()) << "the stamp is taken off";
    EXPECT_GE(asked[0].sent, before);
    EXPECT_LE(asked[0].sent, after);
}

TEST_F(BusTest, WhatAMessageTookFromItsEncodingToTheBusCounts) {
    std::vector<Incoming> asked;
    const auto router =
        started({.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true}, &asked);
    const auto dealer = started({.type = SocketType::kDealer, .endpoint = endpoint("r")});
    const Mono encoded = BootClock::now() - Millis{700};
    EXPECT_TRUE(dealer->send(0, {"hello"}, encoded));
    run_until([&] { return asked.size() == 1; });
    EXPECT_EQ(asked[0].sent, encoded);
}

TEST_F(BusTest, AMessageWithoutAStampCountsAsJustSent) {
    std::vector<Incoming> asked;
    const auto router =
        started({.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true}, &asked);
    zmq::context_t context;
    zmq::socket_t foreign(context, zmq::socket_type::dealer);
    foreign.set(zmq::sockopt::linger, 0);
    foreign.connect(endpoint("r"));
    const Mono before = BootClock::now();
    foreign.send(zmq::str_buffer("hello"));
    run_until([&] { return asked.size() == 1; });
    EXPECT_EQ("hello", asked[0].frames.at(1));
    EXPECT_GE(asked[0].sent, before);
    EXPECT_LE(asked[0].sent, BootClock::now());
}

TEST_F(BusTest, ASubscriberGetsItsPrefixesAlone) {
    std::vector<Incoming> got;
    const auto publisher = started(
        {.type = SocketType::kPub, .endpoint = endpoint("p"), .bind = true, .subscribe = {}});
    const auto subscriber =
        started({.type = SocketType::kSub, .endpoint = endpoint("p"), .subscribe = {"a."}}, &got);
    run_until([&] { return !got.empty(); },
              [&] {
                  publisher->send(0, {"b.c", "no"});
                  publisher->send(0, {"a.b", "yes"});
              });
    for (const Incoming& incoming : got) {
        EXPECT_EQ(incoming.frames, (Frames{"a.b", "yes"}));
    }
}

TEST_F(BusTest, AnXpubIsToldOfEachSubscription) {
    std::vector<Incoming> told;
    const auto feed = started(
        {.type = SocketType::kXpub, .endpoint = endpoint("x"), .bind = true, .subscribe = {}},
        &told);
    const auto one =
        started({.type = SocketType::kSub, .endpoint = endpoint("x"), .subscribe = {"t"}});
    run_until([&] { return told.size() == 1; });
    const auto two =
        started({.type = SocketType::kSub, .endpoint = endpoint("x"), .subscribe = {"t"}});
    run_until([&] { return told.size() == 2; });
    EXPECT_EQ(told[1].frames, (Frames{std::string("\1t")}));
}

TEST_F(BusTest, EveryMessageArrivesInOrderWhileTheLoopIsBusyInBatchesWithinTheBound) {
    constexpr std::size_t kCount = 9'000;  // More than two batches.
    std::vector<Incoming> got;
    const auto router = started(
        {.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true, .subscribe = {}},
        &got);
    const auto dealer =
        started({.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}});
    for (std::size_t i = 0; i < kCount; ++i) {
        ASSERT_TRUE(dealer->send(0, {std::to_string(i)}));
    }
    run_until([&] { return got.size() == kCount; });
    for (std::size_t i = 0; i < kCount; ++i) {
        ASSERT_EQ(got[i].frames.back(), std::to_string(i));
    }
    EXPECT_LE(largest_batch_, 4'096u);
    EXPECT_EQ(dealer->dropped(), 0u);
}

TEST_F(BusTest, BetweenLargeMessagesTheLoopDoesOtherThings) {
    constexpr std::size_t kCount = 20;
    std::size_t batches = 0;
    std::size_t others = 0;
    std::size_t longest_wait = 0;  // In batches.
    Node router(
        loop_,
        {{.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true, .subscribe = {}}},
        [&](const std::vector<Incoming>& batch) {
            largest_batch_ = std::max(largest_batch_, batch.size());
            ++batches;
            loop_.post([&] { ++others; });
            longest_wait = std::max(longest_wait, batches - others);
        });
    ASSERT_TRUE(router.start());
    const auto dealer =
        started({.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}});
    for (std::size_t i = 0; i < kCount; ++i) {
        ASSERT_TRUE(dealer->send(0, {std::string(1u << 20, 'x')}));
    }
    run_until([&] { return batches == kCount; });
    EXPECT_EQ(largest_batch_, 1u);
    EXPECT_LE(longest_wait, 2u);
}

TEST_F(BusTest, SaysWhichEndpointIsTaken) {
    const SocketOptions options{
        .type = SocketType::kPub, .endpoint = endpoint("p"), .bind = true, .subscribe = {}};
    const auto first = started(options);
    const auto second = node(options);
    const Result<> result = second->start();
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Errc::kUnavailable);
    EXPECT_EQ(result.error().message, "cannot bind " + endpoint("p") + ": Address already in use");
}

TEST_F(BusTest, ASocketFileThatADeadProgramLeftIsReplaced) {
    {
        std::ofstream left(folder_ + "/p");
    }
    const auto first = started(
        {.type = SocketType::kPub, .endpoint = endpoint("p"), .bind = true, .subscribe = {}});
}

TEST_F(BusTest, AnEndpointThatIsNoneIsAnError) {
    const auto bad = node(
        {.type = SocketType::kPub, .endpoint = "tcp://nowhere", .bind = true, .subscribe = {}});
    const Result<> result = bad->start();
    ASSERT_FALSE(result.has_value());
    EXPECT_NE(result.error().message.find("tcp://nowhere"), std::string::npos);
}

TEST_F(BusTest, AnIpcSocketIsForItsOwnerAlone) {
    const auto publisher = started(
        {.type = SocketType::kPub, .endpoint = endpoint("p"), .bind = true, .subscribe = {}});
    struct stat status{};
    ASSERT_EQ(::stat((folder_ + "/p").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777u, 0600u);
}

TEST_F(BusTest, WhatWasQueuedBeforeStopStillLeaves) {
    std::vector<Incoming> got;
    const auto router = started(
        {.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true, .subscribe = {}},
        &got);
    const auto dealer =
        started({.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}});
    EXPECT_TRUE(dealer->send(0, {"first"}));
    run_until([&] { return got.size() == 1; });  // The connection stands.
    EXPECT_TRUE(dealer->send(0, {"last"}));
    dealer->stop();
    run_until([&] { return got.size() == 2; });
    EXPECT_EQ(got[1].frames.back(), "last");
}

TEST_F(BusTest, AfterStopNothingIsTakenAndNothingIsDelivered) {
    std::vector<Incoming> got;
    auto router = started(
        {.type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true, .subscribe = {}},
        &got);
    const auto dealer =
        started({.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}});
    dealer->send(0, {"one"});
    run_until([&] { return !got.empty(); });
    got.clear();
    for (int i = 0; i < 100; ++i) {
        dealer->send(0, {"two"});
    }
    router->stop();
    router->stop();
    EXPECT_FALSE(router->send(0, {"x", "y"}));
    EXPECT_EQ(router->dropped(), 1u);
    router.reset();
    bool ran = false;
    loop_.post([&] { ran = true; });
    run_until([&] { return ran; });
    EXPECT_TRUE(got.empty());
}

TEST_F(BusTest, SendsThatFindTheQueueFullAreDroppedAndCounted) {
    const auto dealer =
        node({.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}});
    ASSERT_TRUE(dealer->start().has_value());
    // The high-water mark of a peer that is not there, and then the queue, are bounds: the rest is
    // counted, not kept.
    constexpr std::uint64_t kCount = 200'000;
    for (std::uint64_t i = 0; i < kCount; ++i) {
        dealer->send(0, {"x"});
    }
    run_until([&] { return dealer->dropped() == kCount - 10'000; });
}

TEST_F(BusTest, ABatchHandlerMayDestroyItsNode) {
    const auto dealer =
        started({.type = SocketType::kDealer, .endpoint = endpoint("r"), .subscribe = {}});
    std::unique_ptr<Node> router;
    bool gone = false;
    router = std::make_unique<Node>(
        loop_,
        std::vector{SocketOptions{
            .type = SocketType::kRouter, .endpoint = endpoint("r"), .bind = true, .subscribe = {}}},
        [&](std::vector<Incoming>) {
            router.reset();
            gone = true;
        });
    ASSERT_TRUE(router->start().has_value());
    dealer->send(0, {"x"});
    run_until([&] { return gone; });
}

}  // namespace
}  // namespace sigmacast::bus
