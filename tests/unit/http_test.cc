#include "common/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/admin.h"
#include "common/http_upgrade.h"
#include "common/metrics.h"

namespace sigmacast::http {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

Mono in(int ms) {
    return BootClock::now() + Millis(ms);
}

/// A blocking socket that says and hears exact bytes; every read has a deadline.
class Wire {
 public:
    explicit Wire(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        limit_reads(fd_);
    }
    ~Wire() { ::close(fd_); }
    Wire(const Wire&) = delete;
    Wire& operator=(const Wire&) = delete;

    static void limit_reads(int fd) {
        const timeval limit{.tv_sec = 10, .tv_usec = 0};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }
    void say(const std::string& bytes) const {
        (void)::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    }
    /// Says `byte` again and again, until the other side ends the connection or ten seconds are
    /// over; true: it was ended.
    [[nodiscard]] bool trickle(const std::string& byte) const {
        const timeval pause{.tv_sec = 0, .tv_usec = 5'000};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &pause, sizeof pause);
        for (const Mono end = in(10'000); BootClock::now() < end;) {
            char heard = 0;
            say(byte);
            const auto size = ::recv(fd_, &heard, 1, 0);
            if (size == 0 || (size < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) {
                return true;
            }
        }
        return false;
    }
    std::string hear_until(const std::string& mark) {
        while (heard_.find(mark) == std::string::npos && hear_some()) {
        }
        const std::size_t at = heard_.find(mark);
        const std::size_t end = at == std::string::npos ? heard_.size() : at + mark.size();
        std::string result = heard_.substr(0, end);
        heard_.erase(0, end);
        return result;
    }
    std::string hear_to_the_end() {
        while (hear_some()) {
        }
        return std::exchange(heard_, "");
    }

 private:
    bool hear_some() {
        char buffer[4096];
        const auto size = ::recv(fd_, buffer, sizeof buffer, 0);
        if (size > 0) {
            heard_.append(buffer, static_cast<std::size_t>(size));
        }
        return size > 0;
    }
    int fd_;
    std::string heard_;
};

/// A server in the hands of the test: it answers each connection by a script.
class ScriptedServer {
 public:
    /// For each connection, for each request on it: what to say. An empty answer closes the
    /// connection; so does the end of the list. A `...` at its end leaves the connection open in
    /// silence.
    using Script = std::vector<std::vector<std::string>>;

    explicit ScriptedServer(Script script) : script_(std::move(script)) {
        listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address),
                  0);
        EXPECT_EQ(::listen(listener_, 16), 0);
        socklen_t size = sizeof address;
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = ntohs(address.sin_port);
        thread_ = std::thread([this] { run(); });
    }
    ~ScriptedServer() {
        ::shutdown(listener_, SHUT_RDWR);
        thread_.join();
        ::close(listener_);
        for (const int fd : kept_) {
            ::close(fd);
        }
    }
    ScriptedServer(const ScriptedServer&) = delete;
    ScriptedServer& operator=(const ScriptedServer&) = delete;

    [[nodiscard]] std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
    [[nodiscard]] int requests() const { return requests_; }
    [[nodiscard]] int connections() const { return connections_; }

 private:
    void run() {
        for (const auto& answers : script_) {
            const int fd = ::accept(listener_, nullptr, nullptr);
            if (fd < 0) {
                return;
            }
            ++connections_;
            Wire::limit_reads(fd);
            serve(fd, answers);
        }
    }
    void serve(int fd, const std::vector<std::string>& answers) {
        for (const std::string& answer : answers) {
            if (!read_request(fd)) {
                break;
            }
            ++requests_;
            const bool hang = answer.size() >= 3 && answer.substr(answer.size() - 3) == "...";
            const std::string text = hang ? answer.substr(0, answer.size() - 3) : answer;
            (void)::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
            if (hang) {
                kept_.push_back(fd);
                return;
            }
        }
        ::close(fd);
    }
    static bool read_request(int fd) {
        std::string text;
        char byte = 0;
        while (text.find("\r\n\r\n") == std::string::npos) {
            if (::recv(fd, &byte, 1, 0) != 1) {
                return false;
            }
            text += byte;
        }
        const std::size_t at = text.find("Content-Length: ");
        std::size_t body = at == std::string::npos ? 0 : std::stoul(text.substr(at + 16));
        while (body-- > 0 && ::recv(fd, &byte, 1, 0) == 1) {
        }
        return true;
    }

    const Script script_;
    int listener_ = -1;
    std::uint16_t port_ = 0;
    std::thread thread_;
    std::vector<int> kept_;
    std::atomic<int> requests_ = 0;
    std::atomic<int> connections_ = 0;
};

std::string ok(const std::string& body, const std::string& more = "") {
    return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + more +
           "\r\n" + body;
}

class HttpTest : public testing::Test {
 protected:
    void TearDown() override { finish_wire(); }

    void serve(Server::Handler handler, ServerOptions options = {},
               Server::UpgradeHandler upgrade = nullptr) {
        server_ = std::make_unique<Server>(loop_, options, std::move(handler), std::move(upgrade));
        const Result<> started = server_->start();
        ASSERT_TRUE(started.has_value()) << (started ? "" : started.error().message);
    }
    void serve_echo(ServerOptions options = {}) {
        serve(
            [this](const Request& request, Server::Respond respond) {
                seen_.push_back(request);
                respond({.body = request.method + " " + request.path + "?" + request.query + " " +
                                 request.body,
                         .content_type = "text/plain"});
            },
            options);
    }

    /// More than the kernel holds for a client that does not read.
    static constexpr std::size_t kLarge = 16u << 20;
    void serve_large(ServerOptions options) {
        serve(
            [](const Request& request, Server::Respond respond) {
                respond({.body = std::string(request.path == "/large" ? kLarge : 100, 'x')});
            },
            std::move(options));
    }
    std::string ask_large(const std::string& path) {
        Wire wire(server_->port());
        wire.say("GET " + path + " HTTP/1.1\r\nConnection: close\r\n\r\n");
        return wire.hear_to_the_end();
    }
    bool becomes_200(const std::string& path) {
        for (const Mono end = in(10'000); BootClock::now() < end;) {
            if (ask_large(path).find(" 200 ") != std::string::npos) {
                return true;
            }
        }
        return false;
    }

    /// Runs a blocking client beside the loop, which stops when the client is done.
    void beside(const std::function<void()>& client) {
        wire_ = std::thread([this, client] {
            client();
            loop_.post([this] { loop_.stop(); });
        });
        run();
        finish_wire();
    }
    void finish_wire() {
        if (wire_.joinable()) {
            wire_.join();
        }
    }
    void run() {
        Timer limit(loop_, [&] {
            ADD_FAILURE() << "not done within fifteen seconds";
            loop_.stop();
        });
        limit.set(in(15'000));
        loop_.run();
    }

    std::string raw(const std::string& request) {
        std::string answer;
        beside([&] {
            Wire wire(server_->port());
            wire.say(request);
            answer = wire.hear_to_the_end();
        });
        return answer;
    }

    Result<Response> ask(Client& client, const std::string& target = "/x", int deadline_ms = 5'000,
                         const std::string& method = "POST", const std::string& body = "{}") {
        std::optional<Result<Response>> result;
        int calls = 0;
        client.request(method, target, body, in(deadline_ms), [&](Result<Response> got) {
            ++calls;
            result = std::move(got);
            loop_.stop();
        });
        EXPECT_EQ(calls, 0) << "done may not be called from within request()";
        run();
        EXPECT_EQ(calls, 1);
        return result ? *result : Result<Response>(Error{Errc::kInternal, "no answer at all"});
    }

    [[nodiscard]] std::string url() const {
        return "http://127.0.0.1:" + std::to_string(server_->port());
    }

    Loop loop_;
    std::unique_ptr<Server> server_;
    std::vector<Request> seen_;
    std::thread wire_;
};

// ------------------------------------------------------------------------------------------------------------
// server

TEST_F(HttpTest, AnswersAndTellsTheHandlerWhatWasAsked) {
    serve_echo();
    const std::string answer =
        raw("POST /a%20b?x=1&y HTTP/1.1\r\nHost: localhost\r\nX-Thing: One\r\nContent-Length: 4\r\n"
            "Connection: close\r\n\r\nbody");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\nServer: sigmacast\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\nContent-Type: text/plain\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\n\r\nPOST /a%20b?x=1&y body"));
    ASSERT_EQ(seen_.size(), 1u);
    EXPECT_EQ(seen_[0].header("x-thing"), "One");
    EXPECT_EQ(seen_[0].header("none"), "");
    EXPECT_EQ(seen_[0].peer, "127.0.0.1");
}

TEST_F(HttpTest, AnswersPipelinedRequestsInTheirOrderEvenWhenTheHandlerAnswersLate) {
    std::unique_ptr<Timer> late;
    Server::Respond first;
    serve([&](const Request& request, Server::Respond respond) {
        if (request.path == "/1") {
            first = std::move(respond);
            late = std::make_unique<Timer>(loop_, [&] { first({.body = "first"}); });
            late->set(in(20));
        } else {
            respond({.body = "second"});
        }
    });
    const std::string answer =
        raw("GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            "GET /2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    EXPECT_LT(answer.find("first"), answer.find("second"));
    EXPECT_NE(answer.find("second"), std::string::npos);
}

TEST_F(HttpTest, AHeadHasTheHeaderOfTheGetAndNoBody) {
    serve_echo();
    const std::string answer =
        raw("HEAD /x HTTP/1.1\r\nHost: localhost\r\n\r\nGET /y HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: close\r\n\r\n");
    EXPECT_THAT(answer, HasSubstr("Content-Length: 9\r\n"));
    EXPECT_THAT(answer, Not(HasSubstr("HEAD /x")));
    EXPECT_THAT(raw("HEAD /x HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
                AllOf(StartsWith("HTTP/1.1 421 "), ::testing::EndsWith("\r\n\r\n")));
    EXPECT_THAT(answer, HasSubstr("GET /y"));
}

TEST_F(HttpTest, AnswersAnOldClientAndCloses) {
    serve_echo();
    EXPECT_THAT(raw("GET /x HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 200 OK"));
}

TEST_F(HttpTest, AHeaderOverTheLimitIs431) {
    serve_echo();
    const std::string answer =
        raw("GET / HTTP/1.1\r\nX: " + std::string(100'000, 'a') + "\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 431 "));
    EXPECT_THAT(seen_, IsEmpty());
}

/// Beast throws at a field of 64 KiB, and holds no limit of a header against what comes behind it.
TEST_F(HttpTest, ATrailerOrAChunksExtensionOverTheLimitIs431) {
    serve_echo();
    const std::string head =
        "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    for (const std::size_t bytes :
         {10u, 65'000u, 65'520u, 65'530u, 65'533u, 65'534u, 65'535u, 70'000u, 1'000'000u}) {
        const std::string many(bytes, 'a');
        for (const std::string& rest :
             {"0\r\nA: " + many + "\r\n\r\n", "0\r\n" + many + ": b\r\n\r\n",
              "1;" + many + "\r\nb\r\n0\r\n\r\n"}) {
            const std::string answer = raw(head + rest);  // What is left of 64 KiB is its frame.
            EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 ") ? bytes < 65'535 : bytes > 65'500)
                << bytes << rest.substr(0, 4) << answer;
            EXPECT_THAT(answer, AnyOf(StartsWith("HTTP/1.1 200 "), StartsWith("HTTP/1.1 431 ")));
        }
    }
}

TEST_F(HttpTest, ATrailerSaysNothingThatAHeaderSays) {
    serve_echo();
    EXPECT_THAT(raw("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n"
                    "Authorization: Bearer x\r\nHost: evil.example\r\n\r\n"),
                StartsWith("HTTP/1.1 200 "));
    ASSERT_EQ(seen_.size(), 1u);
    EXPECT_EQ(seen_[0].header("authorization"), "");
    EXPECT_EQ(seen_[0].header("host"), "localhost");
    EXPECT_EQ(seen_[0].body, "b");
}

TEST_F(HttpTest, ABodyOverTheLimitIs413AndTheClientCanReadIt) {
    serve_echo({.body_bytes_max = 1'000});
    for (const std::string framing :
         {"Content-Length: 500000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n7a120\r\n"}) {
        EXPECT_THAT(
            raw("POST / HTTP/1.1\r\nHost: localhost\r\n" + framing + std::string(500'000, 'b')),
            StartsWith("HTTP/1.1 413 "));
    }
    EXPECT_THAT(seen_, IsEmpty());
}

TEST_F(HttpTest, WhatIsNotHttpIs400AndTheConnectionCloses) {
    serve_echo();
    for (const char* request :
         {"hello\r\n\r\n", "GET / HTTP/3.0\r\n\r\n", "GET nowhere HTTP/1.1\r\n\r\n",
          "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n",
          "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
          "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\nGET / HTTP/1.1\r\n\r\n",
          "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
          "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"}) {
        EXPECT_THAT(raw(request), AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("onnection: close")))
            << request;
    }
    EXPECT_THAT(seen_, IsEmpty());
}

TEST_F(HttpTest, SaysContinueToAClientThatWaitsForIt) {
    serve_echo();
    beside([&] {
        Wire wire(server_->port());
        wire.say(
            "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: "
            "2\r\n\r\n");
        EXPECT_EQ(wire.hear_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
        wire.say("ab");
        EXPECT_THAT(wire.hear_until("ab"), HasSubstr("200 OK"));
    });
}

TEST_F(HttpTest, AnIdleConnectionIsClosed) {
    serve_echo({.idle_max = Millis(30)});
    EXPECT_EQ(raw(""), "");
    EXPECT_THAT(raw("GET / HT"), StartsWith("HTTP/1.1 408 "));
    EXPECT_THAT(raw("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"),
                StartsWith("HTTP/1.1 408 "));
}

TEST_F(HttpTest, WhatIsTurnedAwayIsCounted) {
    ServerCounters counters;
    serve_echo({.idle_max = Millis(30), .header_bytes_max = 1'024, .counters = &counters});
    EXPECT_THAT(raw("GET / HT"), StartsWith("HTTP/1.1 408 "));
    EXPECT_THAT(raw("GET / HTTP/1.1\r\nA: " + std::string(1'100, 'x') + "\r\n\r\n"),
                StartsWith("HTTP/1.1 431 "));
    EXPECT_EQ(counters.late, 1U);
    EXPECT_EQ(counters.header_too_large, 1U);
}

TEST(AddressKey, LoopbackIsNobodysAndAnIpv6HostIsItsNetwork) {
    for (const char* loopback : {"127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "", "x"}) {
        EXPECT_EQ(address_key(loopback), "") << loopback;
    }
    EXPECT_EQ(address_key("192.0.2.7"), "192.0.2.7");
    EXPECT_EQ(address_key("::ffff:192.0.2.7"), "192.0.2.7");
    EXPECT_EQ(address_key("2001:db8:0:1::7"), address_key("2001:db8:0:1:ffff::8"));
    EXPECT_NE(address_key("2001:db8:0:1::7"), address_key("2001:db8:0:2::7"));
    for (const std::string network : {"fe80::", "fd12:3456:789a::"}) {
        EXPECT_NE(address_key(network + "1"), address_key(network + "2")) << "hosts of one network";
    }
}

TEST_F(HttpTest, ARequestThatComesByteByByteIsClosedAtTheTimeLimitOfTheWhole) {
    serve_echo({.idle_max = Millis(50)});
    beside([&] {
        const Wire header(server_->port());
        header.say("GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
        EXPECT_TRUE(header.trickle("x"));
        const Wire body(server_->port());
        body.say("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
        EXPECT_TRUE(body.trickle("x"));
    });
    EXPECT_THAT(seen_, IsEmpty());
}

TEST_F(HttpTest, AnswersThatNobodyReadsAreBoundedInSumAndSmallOnesStillGoOut) {
    serve_large({.pending_bytes_max = 4 * kLarge});
    beside([&] {
        std::deque<Wire> silent;
        std::vector<std::string> heads;
        for (int i = 0; i < 6; ++i) {
            silent.emplace_back(server_->port()).say("GET /large HTTP/1.1\r\n\r\n");
            heads.push_back(silent.back().hear_until("\r\n\r\n"));
        }
        for (std::size_t i = 0; i < 3; ++i) {
            EXPECT_THAT(heads[i], HasSubstr(" 200 ")) << i;
        }
        for (std::size_t i = 3; i < 6; ++i) {
            EXPECT_THAT(heads[i], AllOf(HasSubstr(" 503 "), HasSubstr("Retry-After: "))) << i;
        }
        EXPECT_THAT(ask_large("/small"), HasSubstr(" 200 "));
        silent.clear();  // What was held for those who went away is free again.
        EXPECT_TRUE(becomes_200("/large"));
    });
}

TEST_F(HttpTest, AClientThatDoesNotTakeItsAnswerInTimeIsClosed) {
    serve_large({.write_max = Millis(50), .pending_bytes_max = kLarge});
    beside([&] {
        Wire silent(server_->port());
        silent.say("GET /large HTTP/1.1\r\n\r\n");
        silent.hear_until("\r\n\r\n");
        EXPECT_TRUE(becomes_200("/large"));
        EXPECT_LT(silent.hear_to_the_end().size(), kLarge);
    });
}

TEST_F(HttpTest, AnswersThatWereTakenDoNotCount) {
    serve_large({.pending_bytes_max = 1'000});
    beside([&] {
        Wire wire(server_->port());
        for (int i = 0; i < 20; ++i) {
            wire.say("GET /small HTTP/1.1\r\n\r\n");
            ASSERT_THAT(wire.hear_until("\r\n\r\n"), HasSubstr(" 200 ")) << i;
            wire.hear_until(std::string(100, 'x'));
        }
    });
}

TEST_F(HttpTest, AnAnswerOverTheBoundGoesOutWhereItIsAlone) {
    serve_large({.pending_bytes_max = 1'000});
    beside([&] { EXPECT_THAT(ask_large("/large"), HasSubstr(" 200 ")); });
}

TEST(HttpHost, OnlyNamesThatCannotBePointedElsewhereAreLoopbackNames) {
    for (const char* name :
         {"localhost", "LocalHost:12080", "localhost.", "page.localhost:1", "127.0.0.1",
          "127.0.0.1:12080", "127.8.9.10", "[::1]", "[::1]:12080"}) {
        EXPECT_TRUE(is_loopback_name(name)) << name;
    }
    for (const char* name : {"", "evil.example", "evil.example:12080", "127.0.0.1.evil.example",
                             "127.evil", "localhost.evil.example", "notlocalhost", "128.0.0.1",
                             "0.0.0.0", "192.168.1.2", "[::2]", "[fe80::1]:80"}) {
        EXPECT_FALSE(is_loopback_name(name)) << name;
    }
}

TEST_F(HttpTest, AServerOnLoopbackRefusesTheNameOfAPageThatWasPointedAtIt) {
    int offered = 0;
    serve([](const Request&, Server::Respond respond) { respond({.body = "ours"}); }, {},
          [&](Upgrade&) {
              ++offered;
              return false;
          });
    const std::string port = std::to_string(server_->port());
    for (const std::string& host : {"evil.example:" + port, std::string("evil.example")}) {
        const std::string answer =
            raw("GET / HTTP/1.1\r\nHost: " + host +
                "\r\nUpgrade: websocket\r\nConnection: close, upgrade\r\n\r\n");
        EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 421 "), HasSubstr("edge.cors_origins"),
                                  Not(HasSubstr("ours"))))
            << host;
    }
    EXPECT_EQ(offered, 0);
    EXPECT_THAT(raw("GET / HTTP/1.1\r\nHost: localhost:" + port + "\r\nConnection: close\r\n\r\n"),
                HasSubstr("ours"));
}

TEST_F(HttpTest, AServerOnLoopbackBehindAProxyAnswersToTheHostsOfItsOrigins) {
    serve_echo({.origins = {"https://nas.example:8443"}});
    const auto status = [&](const std::string& host) {
        return raw("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
            .substr(9, 3);
    };
    EXPECT_EQ(status("nas.example"), "200");
    EXPECT_EQ(status("NAS.example:8443"), "200");
    EXPECT_EQ(status("nas.example.evil.example"), "421");
    EXPECT_EQ(status("evil.example"), "421");
    serve_echo({.origins = {"*"}});
    EXPECT_EQ(status("any.example"), "200");
}

TEST_F(HttpTest, AServerThatListensElsewhereTakesAnyHost) {
    serve_echo({.host = "0.0.0.0"});
    EXPECT_THAT(raw("GET / HTTP/1.1\r\nHost: nas.lan\r\nConnection: close\r\n\r\n"),
                HasSubstr(" 200 "));
}

TEST_F(HttpTest, AHandlerThatThrowsIs500AndOneThatAnswersTwiceAnswersOnce) {
    serve([](const Request& request, Server::Respond respond) {
        if (request.path == "/throw") {
            throw std::runtime_error("x");
        }
        respond({.body = "once"});
        respond({.body = "twice"});
    });
    EXPECT_THAT(raw("GET /throw HTTP/1.1\r\nConnection: close\r\n\r\n"), HasSubstr(" 500 "));
    EXPECT_THAT(raw("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
                AllOf(HasSubstr("once"), Not(HasSubstr("twice"))));
}

TEST_F(HttpTest, AnAnswerToAClientThatHasGoneOrToAServerThatHasEndedIsDropped) {
    Server::Respond kept;
    serve([&](const Request&, Server::Respond respond) {
        kept = std::move(respond);
        loop_.stop();
    });
    wire_ = std::thread([port = server_->port()] {
        const Wire wire(port);
        wire.say("GET / HTTP/1.1\r\n\r\n");
    });
    run();
    finish_wire();
    server_.reset();
    kept({.body = "too late"});
    loop_.post([&] { loop_.stop(); });
    run();
}

TEST_F(HttpTest, ConnectionsBeyondTheLimitAreClosedAtOnce) {
    serve_echo({.connections_max = 1});
    beside([&] {
        Wire first(server_->port());
        first.say("GET / HTTP/1.1\r\n\r\n");
        first.hear_until("GET /");
        Wire second(server_->port());
        EXPECT_EQ(second.hear_to_the_end(), "");
        first.say("GET /again HTTP/1.1\r\n\r\n");
        EXPECT_THAT(first.hear_until("GET /again"), HasSubstr("200 OK"));
    });
}

TEST_F(HttpTest, StopClosesIdleConnectionsAndRefusesNewOnes) {
    serve_echo();
    beside([&] {
        Wire idle(server_->port());
        idle.say("GET / HTTP/1.1\r\n\r\n");
        idle.hear_until("GET /");
        loop_.post([&] { server_->stop(); });
        EXPECT_THAT(idle.hear_to_the_end(), Not(HasSubstr("HTTP")));
    });
}

TEST_F(HttpTest, APortInUseIsSaidByName) {
    serve_echo();
    Server second(loop_, {.port = server_->port()}, [](const Request&, Server::Respond) {});
    const Result<> started = second.start();
    ASSERT_FALSE(started.has_value());
    EXPECT_EQ(started.error().message,
              "127.0.0.1:" + std::to_string(server_->port()) + " is in use by another program");
    Server third(loop_, {.host = "192.0.2.1"}, [](const Request&, Server::Respond) {});
    EXPECT_THAT(third.start().error().message, HasSubstr("is not an address of this machine"));
}

TEST_F(HttpTest, GoesOnAcceptingAfterTheProcessHadRunOutOfDescriptors) {
    serve_echo();
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    beside([&] {
        Wire waiting(server_->port());
        waiting.say("GET /0 HTTP/1.1\r\n\r\n");
        waiting.hear_until("/0?");  // It has been accepted, before no descriptor is left.
        rlimit none = before;
        none.rlim_cur = 3;
        const int port = server_->port();
        const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
        ::setrlimit(RLIMIT_NOFILE, &none);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        // The accept of that connection fails now; the first one still answers.
        waiting.say("GET /1 HTTP/1.1\r\n\r\n");
        EXPECT_THAT(waiting.hear_until("/1?"), HasSubstr("200 OK"));
        ::setrlimit(RLIMIT_NOFILE, &before);
        Wire::limit_reads(fd);
        const std::string request = "GET /2 HTTP/1.1\r\n\r\n";
        EXPECT_EQ(::send(fd, request.data(), request.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(request.size()));
        char byte = 0;
        EXPECT_EQ(::recv(fd, &byte, 1, 0), 1) << "it was never accepted";
        ::close(fd);
    });
    ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(HttpTest, AnUpgradeIsOfferedToTheHookWithWhatWasReadBeyondIt) {
    std::string buffered;
    std::unique_ptr<Transport::Socket> taken;
    serve([](const Request&, Server::Respond respond) { respond({.status = 426}); }, {},
          [&](Upgrade& upgrade) {
              if (upgrade.request.path != "/ws") {
                  return false;
              }
              buffered = upgrade.early;
              EXPECT_EQ(upgrade.request.header("upgrade"), "WebSocket");
              taken =
                  std::make_unique<Transport::Socket>(std::move(upgrade.transport.next_layer()));
              taken->send(boost::asio::buffer("taken", 5));
              taken->close();
              return true;
          });
    EXPECT_EQ(raw("GET /ws HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\nbeyond"), "taken");
    EXPECT_EQ(buffered, "beyond");
    EXPECT_THAT(raw("GET /no HTTP/1.1\r\nUpgrade: h2c, websocket\r\nConnection: close\r\n\r\n"),
                HasSubstr(" 426 "));
    EXPECT_THAT(raw("POST /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n"),
                HasSubstr(" 426 "));
}

// ------------------------------------------------------------------------------------------------------------
// client

TEST_F(HttpTest, TheClientAsksAndKeepsItsConnection) {
    serve_echo();
    Client client(loop_, url() + "/base/");
    for (int i = 0; i < 3; ++i) {
        const auto answer = ask(client, "/rpc", 5'000, "POST", "{\"a\":1}");
        ASSERT_TRUE(answer.has_value()) << answer.error().message;
        EXPECT_EQ(answer->status, 200);
        EXPECT_EQ(answer->body, "POST /base/rpc? {\"a\":1}");
        EXPECT_EQ(answer->content_type, "text/plain");
    }
    EXPECT_EQ(seen_[0].header("content-type"), "application/json");
    EXPECT_EQ(seen_[0].header("host"), url().substr(7));
}

TEST_F(HttpTest, TheClientSendsTheHeadersThatItWasGivenWithEachRequest) {
    serve_echo();
    Client client(loop_, url(), {.headers = {{"X-Thing", "one"}}});
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(ask(client).has_value());
        EXPECT_EQ(seen_.back().header("x-thing"), "one");
    }
}

TEST_F(HttpTest, TheClientUsesOneConnectionForRequestsInARow) {
    ScriptedServer server({{ok("1"), ok("2"), ok("3")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "1");
    EXPECT_EQ(ask(client)->body, "2");
    EXPECT_EQ(ask(client)->body, "3");
    EXPECT_EQ(server.connections(), 1);
}

TEST_F(HttpTest, RequestsBeyondThePoolWaitForAConnection) {
    serve_echo();
    Client client(loop_, url(), {.connections_max = 2});
    int done = 0;
    for (int i = 0; i < 20; ++i) {
        client.request("GET", "/" + std::to_string(i), "", in(5'000), [&](Result<Response> got) {
            EXPECT_TRUE(got.has_value());
            if (++done == 20) {
                loop_.stop();
            }
        });
    }
    run();
    EXPECT_EQ(done, 20);
}

TEST_F(HttpTest, AConnectionThatWasRefusedSaysSo) {
    std::string base;
    {
        ScriptedServer gone({});
        base = gone.url();
    }
    Client client(loop_, base + "/api/v1");
    const auto answer = ask(client);
    ASSERT_FALSE(answer.has_value());
    EXPECT_EQ(answer.error().code, Errc::kUnavailable);
    EXPECT_EQ(answer.error().message, base + ": connection refused");
}

TEST_F(HttpTest, TheDeadlineHoldsForAServerThatNeverAnswers) {
    ScriptedServer server({{"..."}});
    Client client(loop_, server.url());
    const Mono start = BootClock::now();
    const auto answer = ask(client, "/x", 50);
    EXPECT_EQ(answer.error().code, Errc::kTimeout);
    EXPECT_EQ(answer.error().message,
              server.url() + ": no answer in time (waiting for the answer)");
    EXPECT_GE(elapsed(start, BootClock::now()), Millis(50));
}

TEST_F(HttpTest, TheDeadlineHoldsForAServerThatStopsInTheMiddle) {
    ScriptedServer server({{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc..."}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client, "/x", 50).error().code, Errc::kTimeout);
}

TEST_F(HttpTest, TheDeadlineHoldsWhileWaitingForAConnection) {
    ScriptedServer server({{"..."}});
    Client client(loop_, server.url(), {.connections_max = 1});
    client.request("GET", "/", "", in(5'000), [](const Result<Response>&) {});
    const auto answer = ask(client, "/x", 50);
    EXPECT_EQ(answer.error().code, Errc::kTimeout);
    EXPECT_THAT(answer.error().message, HasSubstr("waiting for a connection"));
}

TEST_F(HttpTest, ADeadlineThatIsPastIsATimeout) {
    ScriptedServer server({{"..."}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client, "/x", -10).error().code, Errc::kTimeout);
}

TEST_F(HttpTest, AKeptConnectionThatDiedIsReplacedOnce) {
    ScriptedServer server({{ok("1"), ""}, {ok("2")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "1");
    EXPECT_EQ(ask(client)->body, "2");
    EXPECT_EQ(server.connections(), 2);
    EXPECT_EQ(server.requests(), 3);
}

TEST_F(HttpTest, AFreshConnectionThatDiesIsNotTriedAgain) {
    ScriptedServer server({{""}, {ok("never")}});
    Client client(loop_, server.url());
    const auto answer = ask(client);
    ASSERT_FALSE(answer.has_value());
    EXPECT_EQ(answer.error().code, Errc::kUnavailable);
    EXPECT_EQ(answer.error().message, server.url() + ": closed without an answer");
    EXPECT_EQ(server.requests(), 1);
}

TEST_F(HttpTest, TheRetryIsNotTriedAgainEither) {
    ScriptedServer server({{ok("1"), ""}, {""}, {ok("never")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "1");
    EXPECT_FALSE(ask(client).has_value());
    EXPECT_EQ(server.requests(), 3);
}

TEST_F(HttpTest, AKeptConnectionThatDiesInTheMiddleOfAnAnswerIsNotTriedAgain) {
    ScriptedServer server(
        {{ok("1"), "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"}, {ok("never")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "1");
    const auto answer = ask(client);
    EXPECT_EQ(answer.error().code, Errc::kUnavailable);
    EXPECT_THAT(answer.error().message, HasSubstr("closed in the middle of its answer"));
    EXPECT_EQ(server.requests(), 2);
}

TEST_F(HttpTest, ConnectionCloseAndHttp10EndTheConnection) {
    ScriptedServer server({{ok("1", "Connection: close\r\n")},
                           {"HTTP/1.0 200 OK\r\n\r\nup to the end"},
                           {"HTTP/1.1 200 OK\r\n\r\nthis, too"},
                           {ok("4")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "1");
    EXPECT_EQ(ask(client)->body, "up to the end");
    EXPECT_EQ(ask(client)->body, "this, too");
    EXPECT_EQ(ask(client)->body, "4");
    EXPECT_EQ(server.connections(), 4);
}

TEST_F(HttpTest, AnInterimAnswerIsPassedOver) {
    ScriptedServer server({{"HTTP/1.1 100 Continue\r\n\r\n" + ok("real")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "real");
}

TEST_F(HttpTest, AnAnswerToAHeadHasNoBody) {
    ScriptedServer server({{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", ok("next")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client, "/", 5'000, "HEAD", "")->body, "");
    EXPECT_EQ(ask(client)->body, "next");
    EXPECT_EQ(server.connections(), 1);
}

TEST_F(HttpTest, AnAnswerOverTheLimitIsTooLarge) {
    ScriptedServer server({{ok(std::string(2'000, 'x'))}, {ok("fine")}});
    Client client(loop_, server.url(), {.body_bytes_max = 1'000});
    const auto answer = ask(client);
    EXPECT_EQ(answer.error().code, Errc::kTooLarge);
    EXPECT_EQ(answer.error().message, server.url() + ": the answer is over 1000 bytes");
    EXPECT_EQ(ask(client)->body, "fine");
}

TEST_F(HttpTest, AnAnswerWithATrailerOrAChunksExtensionOverTheLimitIsTooLarge) {
    const std::string head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const std::string many(70'000, 'a');
    ScriptedServer server({{head + "0\r\nA: " + many + "\r\n\r\n"},
                           {head + "1;" + many + "\r\nb\r\n0\r\n\r\n"},
                           {ok("fine")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client).error().code, Errc::kTooLarge);
    EXPECT_EQ(ask(client).error().code, Errc::kTooLarge);
    EXPECT_EQ(ask(client)->body, "fine");
}

TEST_F(HttpTest, AnAnswerThatIsNotHttpIsInvalid) {
    ScriptedServer server({{"220 mail ready\r\n\r\n"}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client).error().code, Errc::kInvalid);
}

TEST_F(HttpTest, BytesAfterAnAnswerAreNotTakenForTheNextOne) {
    ScriptedServer server({{ok("1") + ok("stray")}, {ok("2")}});
    Client client(loop_, server.url());
    EXPECT_EQ(ask(client)->body, "1");
    EXPECT_EQ(ask(client)->body, "2");
}

TEST_F(HttpTest, AStatusThatIsAnErrorIsStillAnAnswer) {
    ScriptedServer server({{"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"}});
    Client client(loop_, server.url());
    const auto answer = ask(client);
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status, 503);
    EXPECT_EQ(answer->body, "no");
}

TEST_F(HttpTest, AUrlThatIsNoneFailsEachRequest) {
    for (const char* bad : {"", "127.0.0.1:5000", "https://h/", "http://", "http://h:99999/"}) {
        Client client(loop_, bad);
        EXPECT_EQ(ask(client).error().code, Errc::kInvalid) << bad;
    }
}

TEST_F(HttpTest, AnAddressOfVersion6Works) {
    ServerOptions options;
    options.host = "::1";
    server_ = std::make_unique<Server>(loop_, options,
                                       [](const Request& request, Server::Respond respond) {
                                           respond({.body = std::string(request.header("host"))});
                                       });
    if (!server_->start().has_value()) {
        GTEST_SKIP() << "this machine has no ::1";
    }
    const std::string host = "[::1]:" + std::to_string(server_->port());
    Client client(loop_, "http://" + host);
    const auto answer = ask(client);
    ASSERT_TRUE(answer.has_value()) << answer.error().message;
    EXPECT_EQ(answer->body, host);
}

TEST_F(HttpTest, ANameIsLookedUp) {
    serve_echo();
    Client client(loop_, "http://localhost:" + std::to_string(server_->port()));
    const auto answer = ask(client);
    ASSERT_TRUE(answer.has_value()) << answer.error().message;
}

TEST_F(HttpTest, AClientThatIsDestroyedCallsNobody) {
    ScriptedServer server({{"..."}});
    auto client =
        std::make_unique<Client>(loop_, server.url(), ClientOptions{.connections_max = 1});
    int calls = 0;
    for (int i = 0; i < 3; ++i) {
        client->request("GET", "/", "", in(60), [&](const Result<Response>&) { ++calls; });
    }
    Timer destroy(loop_, [&] { client.reset(); });
    destroy.set(in(20));
    Timer end(loop_, [&] { loop_.stop(); });
    end.set(in(100));
    run();
    EXPECT_EQ(calls, 0);
}

TEST_F(HttpTest, DoneMayDestroyTheClient) {
    ScriptedServer server({{ok("1")}});
    auto client = std::make_unique<Client>(loop_, server.url());
    client->request("GET", "/", "", in(5'000), [&](const Result<Response>& got) {
        EXPECT_TRUE(got.has_value());
        client.reset();
        loop_.stop();
    });
    run();
}

TEST(HttpLifetime, AClientAndItsLoopEndWithRequestsPending) {
    ScriptedServer server({{"..."}});
    Loop loop;
    Client client(loop, server.url(), {.connections_max = 1});
    for (int i = 0; i < 3; ++i) {
        client.request("GET", "/", "", in(5'000),
                       [](const Result<Response>&) { ADD_FAILURE() << "nobody waits for this"; });
    }
    Timer end(loop, [&] { loop.stop(); });
    end.set(in(20));
    loop.run();
}

// -------------------------------------------------------------------------------------------------------------
// admin

TEST_F(HttpTest, TheAdminEndpointTellsLifeReadinessAndMetrics) {
    Metrics metrics;
    metrics.counter("things_total", "Things.", {{"kind", "a"}}).add(3);
    EXPECT_EQ(&metrics.counter("things_total", "Things.", {{"kind", "a"}}),
              &metrics.counter("things_total", "Things.", {{"kind", "a"}}));
    Gauge& gauge = metrics.gauge("level", "Level.");
    Readiness readiness{.ready = false, .json = R"({"why":"starting"})"};
    Admin admin(loop_, 0, metrics, [&] { return readiness; }, [&] { gauge.set(7); });
    ASSERT_TRUE(admin.start().has_value());
    Client client(loop_, "http://127.0.0.1:" + std::to_string(admin.port()));
    EXPECT_EQ(ask(client, "/livez", 5'000, "GET", "")->status, 200);
    const auto not_ready = ask(client, "/readyz", 5'000, "GET", "");
    EXPECT_EQ(not_ready->status, 503);
    EXPECT_EQ(not_ready->body, R"({"why":"starting"})");
    readiness.ready = true;
    EXPECT_EQ(ask(client, "/readyz", 5'000, "HEAD", "")->status, 200);
    const std::string text = ask(client, "/metrics", 5'000, "GET", "")->body;
    EXPECT_THAT(text, HasSubstr("things_total{kind=\"a\"} 3\n"));
    EXPECT_THAT(text, HasSubstr("\nlevel 7\n"));
    for (const char* name : {"process_resident_memory_bytes", "process_cpu_seconds_total",
                             "process_open_fds", "process_start_time_seconds"}) {
        EXPECT_THAT(text, HasSubstr("\n" + std::string(name) + " ")) << name;
    }
    EXPECT_EQ(ask(client, "/other", 5'000, "GET", "")->status, 404);
    EXPECT_EQ(ask(client, "/livez", 5'000, "POST", "")->status, 404);
}

}  // namespace
}  // namespace sigmacast::http
