#include "edge/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <filesystem>
#include <future>
#include <thread>

#include "edge_fixture.h"
#include "token_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using ::testing::Bool;
using ::testing::HasSubstr;
using ::testing::WithParamInterface;

http::Request upgrade(http::Headers more = {}) {
    http::Request request{.method = "GET",
                          .path = "/ws",
                          .query = {},
                          .headers = {{"host", "localhost:12080"},
                                      {"upgrade", "websocket"},
                                      {"connection", "keep-alive, Upgrade"},
                                      {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="},
                                      {"sec-websocket-version", "13"}},
                          .body = {},
                          .peer = {}};
    for (auto& [name, value] : more) {
        std::erase_if(request.headers, [&](const auto& header) { return header.first == name; });
        request.headers.emplace_back(name, value);
    }
    return request;
}

int refused(const http::Request& request, const WireOptions& options = {},
            std::size_t clients = 0) {
    const auto response = refuse_upgrade(request, options, clients);
    return response ? response->status : 101;
}

TEST(RefuseUpgrade, WhatIsNoHandshakeIs426AndAnotherMethod405) {
    EXPECT_EQ(refused(upgrade()), 101);
    EXPECT_EQ(refused(upgrade({{"upgrade", "h2c"}})), 426);
    EXPECT_EQ(refused(upgrade({{"connection", "keep-alive"}})), 426);
    EXPECT_EQ(refused(upgrade({{"sec-websocket-version", "8"}})), 426);
    EXPECT_EQ(refused(upgrade({{"sec-websocket-key", ""}})), 426);
    http::Request post = upgrade();
    post.method = "POST";
    EXPECT_EQ(refused(post), 405);
}

TEST(RefuseUpgrade, AKeyIsSixteenOrEighteenBytesOfBase64) {
    EXPECT_EQ(refused(upgrade({{"sec-websocket-key", "MTIzNDU2Nzg5MDEyMzQ1Njc4"}})), 101);
    for (const char* key : {"short", "dGhlIHNhbXBsZSBub25jZQ==dGhl", "dGhlIHNhbXBsZSB*b25jZQ=="}) {
        EXPECT_EQ(refused(upgrade({{"sec-websocket-key", key}})), 400) << key;
    }
}

TEST(RefuseUpgrade, AnExtensionHeaderIsAListOfNamesAndParametersOrRefused) {
    for (const char* good :
         {"", "permessage-deflate", "permessage-deflate; client_max_window_bits",
          "permessage-deflate;server_max_window_bits=10 , x; a=\"b\"; c = d,", " , a"}) {
        EXPECT_EQ(refused(upgrade({{"sec-websocket-extensions", good}})), 101) << good;
    }
    for (const char* bad : {";", ";;;;", "a;", "a; ;b", "a b", "a; b=", "a; =b", "a; b=\"c", "a=b",
                            "a; b=\"c d\"", "a, b;", "a; b=\"\"", "\x01"}) {
        EXPECT_EQ(refused(upgrade({{"sec-websocket-extensions", bad}})), 400) << bad;
    }
    http::Request twice = upgrade({{"sec-websocket-extensions", "good"}});
    twice.headers.emplace_back("sec-websocket-extensions", ";");
    EXPECT_EQ(refused(twice), 400);
}

TEST(RefuseUpgrade, APageOfAnotherOriginIsRefusedUnlessItIsListed) {
    EXPECT_EQ(refused(upgrade({{"origin", "http://localhost:12080"}})), 101);
    EXPECT_EQ(refused(upgrade({{"origin", "HTTP://LOCALHOST:12080"}})), 101);
    for (const char* foreign : {"http://localhost:3000", "http://evil.example", "null",
                                "http://localhost:12080.evil.example", "localhost:12080"}) {
        EXPECT_EQ(refused(upgrade({{"origin", foreign}})), 403) << foreign;
        EXPECT_EQ(refused(upgrade({{"origin", foreign}}), {.cors_origins = {foreign}}), 101);
        EXPECT_EQ(refused(upgrade({{"origin", foreign}}), {.cors_origins = {"*"}}), 101);
    }
}

TEST(RefuseUpgrade, BeyondTheMaximumItIs503WithAHint) {
    EXPECT_EQ(refused(upgrade(), {.clients_max = 3}, 2), 101);
    const auto response = refuse_upgrade(upgrade(), {.clients_max = 3}, 3);
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(response->status, 503);
    EXPECT_EQ(response->headers.at(0).first, "Retry-After");
}

/// A blocking WebSocket client that reads only when told to.
class Client {
 public:
    Client(std::uint16_t port, bool v1) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
        const int small = 4096;
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        const timeval limit{.tv_sec = 10, .tv_usec = 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        std::string request =
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        request += v1 ? "Sec-WebSocket-Protocol: sigmacast.v1.json\r\n\r\n" : "\r\n";
        EXPECT_TRUE(say(request));
        while (heard_.find("\r\n\r\n") == std::string::npos && hear()) {
        }
        EXPECT_THAT(heard_, HasSubstr(" 101 "));
        heard_.erase(0, heard_.find("\r\n\r\n") + 4);
    }
    ~Client() { ::close(fd_); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    /// A masked text frame, so many times in one go.
    [[nodiscard]] bool send(const std::string& text, std::size_t times = 1) const {
        const std::string head = {'\x81', static_cast<char>(0x80 | text.size()), 0, 0, 0, 0};
        std::string frames;
        for (std::size_t i = 0; i < times; ++i) {
            frames += head + text;
        }
        return say(frames);
    }
    [[nodiscard]] bool close() const { return say(std::string("\x88\x80\0\0\0\0", 6)); }
    bool hear() {
        char buffer[65'536];
        ssize_t size = 0;
        do {  // With a time limit a call ends early where its thread was stopped (signal(7)).
            size = ::recv(fd_, buffer, sizeof buffer, 0);
        } while (size < 0 && errno == EINTR);
        if (size > 0) {
            heard_.append(buffer, static_cast<std::size_t>(size));
        }
        return size > 0;
    }
    /// The next message's text; a close frame is "close" and its code; "end": nothing more came.
    std::string next() {
        const auto need = [&](std::size_t bytes) {
            while (heard_.size() < bytes && hear()) {
            }
            return heard_.size() >= bytes;
        };
        if (!need(2)) {
            return "end";
        }
        const std::size_t first = byte(1) & 0x7f;
        const std::size_t more = first == 126 ? 2 : first == 127 ? 8 : 0;
        if (!need(2 + more)) {
            return "end";
        }
        std::size_t length = more == 0 ? first : 0;
        for (std::size_t i = 0; i < more; ++i) {
            length = length << 8 | byte(2 + i);
        }
        if (!need(2 + more + length)) {
            return "end";
        }
        std::string text = heard_.substr(2 + more, length);
        if (byte(0) == 0x88) {
            text = "close " + std::to_string(byte(2) << 8 | byte(3));
        }
        heard_.erase(0, 2 + more + length);
        return text;
    }

 private:
    [[nodiscard]] std::size_t byte(std::size_t at) const {
        return static_cast<unsigned char>(heard_[at]);
    }
    [[nodiscard]] bool say(std::string_view bytes) const {
        while (!bytes.empty()) {
            const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent < 0) {
                return false;
            }
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }

    int fd_;
    std::string heard_;
};

/// The loop runs in a thread of its own; the test says what happens on it.
class WireTest : public ::testing::Test {
 protected:
    static constexpr std::size_t kFrame = 50'000;

    void TearDown() override {
        if (loop_thread_.joinable()) {
            loop_.stop();
            loop_thread_.join();
        }
    }

    void serve(WireOptions options = {}) {
        wire_ = std::make_unique<Wire>(loop_, hub_, std::move(options), Random(2));
        server_ = std::make_unique<http::Server>(
            loop_, http::ServerOptions{},
            [](const http::Request&, http::Server::Respond respond) { respond({.status = 404}); },
            [this](http::Upgrade& upgrade) { return wire_->accept(upgrade); });
        ASSERT_TRUE(server_->start().has_value());
        loop_thread_ = std::thread([this] { loop_.run(); });
    }
    template <class Work>
    auto on_loop(Work work) {
        std::packaged_task<decltype(work())()> task(std::move(work));
        auto result = task.get_future();
        loop_.post([&task] { task(); });
        return result.get();
    }
    template <class Condition>
    bool until(Condition condition) {
        for (const Mono end = BootClock::now() + Seconds(10); BootClock::now() < end;) {
            if (on_loop(condition)) {
                return true;
            }
            std::this_thread::yield();
        }
        return false;
    }
    static std::string large() { return R"({"x":")" + std::string(kFrame, 'x') + "\"}"; }
    /// An event that every client without a subprotocol gets.
    void send_event(const std::string& json = large()) {
        on_loop([&] {
            std::vector<Upstream::Step> steps;
            steps.emplace_back(
                event({.topic = "rpc_error", .json = json, .seq = ++seq_}, system_now()));
            hub_.apply(std::move(steps), system_now());
            wire_->flush();
        });
    }
    /// A value for each of 64 keys, in one batch.
    void send_values() {
        on_loop([&] {
            std::vector<Upstream::Step> steps;
            for (int key = 0; key < 64; ++key) {
                steps.emplace_back(value({.topic = "storage.update",
                                          .key = std::to_string(key),
                                          .poll = "",
                                          .json = large(),
                                          .seq = ++seq_},
                                         system_now()));
            }
            hub_.apply(std::move(steps), system_now());
            wire_->flush();
        });
    }
    std::uint64_t bytes_sent() {
        return on_loop([this] { return wire_->counters().bytes; });
    }
    static std::size_t descriptors() {
        const std::filesystem::directory_iterator all("/proc/self/fd");
        return static_cast<std::size_t>(std::distance(begin(all), end(all)));
    }

    Loop loop_;
    Hub hub_{{.legacy_origin = {}, .heartbeat_interval = Millis(5'000), .queue = {}}, Random(1)};
    std::unique_ptr<Wire> wire_;
    std::unique_ptr<http::Server> server_;
    std::thread loop_thread_;
    std::uint64_t seq_ = 0;
};

/// The same by either way of sending.
class WireSendTest : public WireTest, public WithParamInterface<bool> {
 protected:
    void SetUp() override {
        if (GetParam()) {
            auto made = SendBatch::make();
            if (!made) {
                GTEST_SKIP() << made.error().message;
            }
            batch_ = std::move(*made);
        }
    }
    void serve(WireOptions options = {}) {
        options.batch = batch_;
        options.batch_min = 1;
        WireTest::serve(std::move(options));
    }

    std::shared_ptr<SendBatch> batch_;
};

INSTANTIATE_TEST_SUITE_P(BySystemCall, WireSendTest, Bool(),
                         [](const auto& each) { return each.param ? "Shared" : "OfItsOwn"; });

TEST_P(WireSendTest, WhatIsForManyIsSentByTheSystemCallsThatWereChosen) {
    serve();
    std::deque<Client> clients;
    for (int i = 0; i < 8; ++i) {
        clients.emplace_back(server_->port(), true);
        EXPECT_TRUE(clients.back().send(R"({"type":"subscribe","data":{"types":["rpc_error"]}})"));
        while (clients.back().next().find("subscribed") == std::string::npos) {
        }
    }
    const WireCounters before = on_loop([&] { return wire_->counters(); });
    send_event("1");
    for (Client& client : clients) {
        EXPECT_THAT(client.next(), HasSubstr(R"("type":"rpc_error")"));
    }
    const WireCounters after = on_loop([&] { return wire_->counters(); });
    EXPECT_EQ(after.flushes - before.flushes, clients.size());
    EXPECT_EQ(after.batched - before.batched, GetParam() ? clients.size() : 0u);
    EXPECT_EQ(after.batches - before.batches, GetParam() ? 1u : 0u);
}

TEST_P(WireSendTest, WithinTheIntervalOfTheLastFlushWhatComesWaitsAndLeavesTogether) {
    serve({.flush_interval = Seconds(1)});
    Client client(server_->port(), true);
    EXPECT_TRUE(client.send(R"({"type":"subscribe","data":{"types":["rpc_error"]}})"));
    while (client.next().find("subscribed") == std::string::npos) {
    }
    const WireCounters before = on_loop([&] { return wire_->counters(); });
    for (int i = 0; i < 3; ++i) {
        send_event("1");
    }
    EXPECT_EQ(on_loop([&] { return wire_->counters().flushes; }), before.flushes) << "they wait";
    for (int i = 0; i < 3; ++i) {
        EXPECT_THAT(client.next(), HasSubstr(R"("type":"rpc_error")"));
    }
    EXPECT_EQ(on_loop([&] { return wire_->counters().flushes; }), before.flushes + 1);
}

TEST_P(WireSendTest, ClientsThatNeverReadAreGivenUpAndLeaveNothingBehind) {
    serve({.close_timeout = Millis(50)});
    const std::size_t before = descriptors();
    constexpr std::size_t kClients = 8;
    std::deque<Client> silent;
    for (std::size_t i = 0; i < kClients; ++i) {
        silent.emplace_back(server_->port(), false);
    }
    EXPECT_GE(descriptors(), before + 2 * kClients);
    const auto stalled = [&] {
        const auto sent = bytes_sent();
        send_event();
        return bytes_sent() == sent;
    };
    while (!stalled()) {  // Until the kernel's buffers are full.
    }
    for (int i = 0; i < 10; ++i) {  // And the outboxes.
        send_event();
    }
    // Answers that nobody reads, over 64 KiB: the edge stops reading, so that no read of its own
    // can tell it of the end.
    constexpr std::size_t kBad = 2'000;
    for (const Client& client : silent) {
        ASSERT_TRUE(client.send("not JSON", kBad));
    }
    const auto answered = [&] { return on_loop([&] { return hub_.counters().client_errors; }); };
    auto so_far = answered();
    for (int unchanged = 0; unchanged < 200; ++unchanged) {
        if (const auto newer = answered(); newer != so_far) {
            so_far = newer;
            unchanged = 0;
        }
    }
    EXPECT_GT(so_far, 0u);
    EXPECT_LT(so_far, kClients * kBad / 2) << "it goes on reading though its answers pile up";
    while (on_loop([&] { return hub_.counters().slow_closed; }) < kClients) {
        send_event();
    }
    EXPECT_TRUE(until([&] { return wire_->clients() == 0; }));
    EXPECT_EQ(on_loop([&] { return hub_.sessions(); }), 0u);
    EXPECT_EQ(descriptors(), before + kClients) << "only the clients' own are left";
}

TEST_P(WireSendTest, AClientThatReadsAgainInTimeIsToldThatItWasTooSlow) {
    serve({.close_timeout = Millis(10'000)});
    Client client(server_->port(), true);
    EXPECT_TRUE(client.send(R"({"type":"subscribe","data":{"types":["rpc_error"]}})"));
    while (client.next().find("subscribed") == std::string::npos) {
    }
    while (on_loop([&] { return hub_.counters().slow_closed; }) == 0) {
        send_event();
    }
    std::string before_last;
    std::string last = client.next();
    while (last != "end" && !last.starts_with("close")) {
        before_last = std::exchange(last, client.next());
    }
    EXPECT_EQ(last, "close 4102");
    EXPECT_THAT(before_last, HasSubstr(R"("type":"goodbye")"));
}

TEST_P(WireSendTest, WhatTheSocketDoesNotTakeStaysWhereItCanBeConflated) {
    serve();
    Client client(server_->port(), true);
    EXPECT_TRUE(client.send(R"({"type":"subscribe","data":{"types":["storage.update"]}})"));
    while (client.next().find("subscribed") == std::string::npos) {
    }
    while (on_loop([&] { return hub_.counters().sent.conflated; }) < 128) {
        send_values();
    }
    const auto in_outbox =
        on_loop([&] { return hub_.counters().sent.bytes - wire_->counters().bytes; });
    EXPECT_LT(in_outbox, (256u << 10) + 2 * kFrame);
    EXPECT_EQ(on_loop([&] { return hub_.counters().slow_closed; }), 0u);
}

TEST_F(WireTest, WhoHasClosedGetsNothingMoreAndIsNoSlowConsumer) {
    serve({.close_timeout = Millis(10'000)});
    Client client(server_->port(), false);
    ASSERT_TRUE(client.close());
    std::string last;
    while (last != "end" && !last.starts_with("close")) {
        last = client.next();
    }
    EXPECT_EQ(last, "close 1000");
    for (int i = 0; i < 100; ++i) {  // 5 MB, while the client keeps its half of the connection.
        send_event();
    }
    EXPECT_EQ(on_loop([&] { return wire_->clients(); }), 1U);
    EXPECT_EQ(on_loop([&] { return hub_.counters().slow_closed; }), 0U);
    EXPECT_EQ(client.next(), "end");
}

class WireAccessTest : public WireTest {
 protected:
    WireAccessTest() {
        AuthSettings auth;
        auth.required = true;
        auth.secret = kSecret;
        access_ = std::move(*Access::make(auth));
    }
    /// What an upgrade with this token is answered with; 101: it goes on.
    int answer(const std::string& token, http::Response* response = nullptr) {
        auto refused = wire_->refusal(
            token.empty() ? upgrade() : upgrade({{"authorization", "Bearer " + token}}));
        if (refused && response) {
            *response = *refused;
        }
        return refused ? refused->status : 101;
    }
    static std::string fresh() {
        return hs_token(R"({"sub":"ann","exp":)" +
                        std::to_string(unix_seconds(system_now().wall) + 60) + "}");
    }

    std::unique_ptr<Access> access_;
};

TEST_F(WireAccessTest, ABadTokenIsRefusedBeforeTheUpgradeAndNoTokenIsNot) {
    serve({.access = access_.get()});
    on_loop([&] {
        EXPECT_EQ(answer(fresh()), 101);
        EXPECT_EQ(answer(""), 101);
        http::Response response;
        EXPECT_EQ(answer(hs_token(R"({"exp":1000})"), &response), 401);
        EXPECT_THAT(response.body, HasSubstr(R"({"code":401,"error":")"));
        EXPECT_THAT(response.headers.at(0).second, ::testing::StartsWith("Bearer"));
        EXPECT_EQ(answer("x"), 401);
    });
}

TEST_F(WireTest, OnLoopbackAnAddressMayHaveAnyNumber) {
    serve({.clients_per_address_max = 1});
    Client first(server_->port(), true);
    Client second(server_->port(), true);
    EXPECT_EQ(on_loop([&] { return wire_->clients(); }), 2U);
}

TEST_F(WireAccessTest, ThoseThatHaveSentNoTokenYetAreBounded) {
    serve({.access = access_.get(), .waiting_max = 2});
    Client first(server_->port(), true);
    std::deque<Client> others;
    others.emplace_back(server_->port(), true);
    ASSERT_TRUE(until([&] { return hub_.occupancy().waiting == 2; }));
    EXPECT_EQ(on_loop([&] { return answer(""); }), 503);
    EXPECT_EQ(on_loop([&] { return answer(fresh()); }), 101);
    others.clear();
    EXPECT_TRUE(until([&] { return answer("") == 101; })) << "one has gone";
}

}  // namespace
}  // namespace sigmacast::edge
