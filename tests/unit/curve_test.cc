// Keys between nodes, in one process over loopback; integration/curve_test.py has the real
// programs.
#include "common/curve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/permissions.h"
#include "common/bus.h"
#include "tests/unit/temp_folder.h"

namespace sigmacast {
namespace {

using bus::Curve;
using bus::Incoming;
using bus::Node;
using bus::SocketOptions;
using bus::SocketType;

class CurveTest : public testing::Test {
 protected:
    KeyPair key(const std::string& name) {
        const auto pair = write_key_pair(folder_.file(name));
        EXPECT_TRUE(pair) << (pair ? "" : pair.error().message);
        return pair ? *pair : KeyPair{};
    }
    Curve server(std::vector<bus::CurveClient> clients) {
        return {.public_key = broker_.public_key,
                .secret_key = broker_.secret_key,
                .clients = std::move(clients)};
    }
    Curve client(const KeyPair& own) {
        return {.public_key = own.public_key,
                .secret_key = own.secret_key,
                .broker_key = broker_.public_key};
    }

    /// ipc needs no port, and CURVE is the same on it.
    std::string endpoint() const { return "ipc://" + folder_.file("s"); }

    std::unique_ptr<Node> router(Curve curve, unsigned rights = bus::kPublish) {
        auto node = std::make_unique<Node>(
            loop_,
            std::vector{SocketOptions{.type = SocketType::kRouter,
                                      .endpoint = endpoint(),
                                      .bind = true,
                                      .rights = rights}},
            [this](std::vector<Incoming> batch) {
                std::move(batch.begin(), batch.end(), std::back_inserter(got_));
            },
            std::move(curve));
        EXPECT_TRUE(node->start());
        return node;
    }
    std::unique_ptr<Node> dealer(Curve curve) {
        auto node = std::make_unique<Node>(
            loop_, std::vector{SocketOptions{.type = SocketType::kDealer, .endpoint = endpoint()}},
            [](const std::vector<Incoming>&) {}, std::move(curve));
        EXPECT_TRUE(node->start());
        return node;
    }

    void run_until(const std::function<bool()>& done) {
        const Mono limit = BootClock::now() + Seconds(20);
        bool in_time = true;
        Timer look(loop_, [&] {
            in_time = BootClock::now() < limit;
            if (done() || !in_time) {
                return loop_.stop();
            }
            look.set(BootClock::now() + Millis(2));
        });
        look.set(BootClock::now());
        loop_.run();
        ASSERT_TRUE(in_time) << "not done within twenty seconds";
    }

    TempFolder folder_;
    Loop loop_;
    KeyPair broker_ = key("broker");
    std::vector<Incoming> got_;
};

TEST_F(CurveTest, AMessageComesWithTheNameOfTheClientWhoseKeyItIs) {
    const KeyPair one = key("one");
    const KeyPair two = key("two");
    const auto node = router(server({{"first", {one.public_key}, bus::kPublish},
                                     {"second", {"x", two.public_key}, bus::kPublish}}));
    const auto a = dealer(client(one));
    const auto b = dealer(client(two));
    a->send(0, {"a"});
    run_until([&] { return got_.size() == 1; });
    EXPECT_EQ(got_[0].client, "first");
    EXPECT_EQ(got_[0].frames.back(), "a");
    b->send(0, {"b"});
    run_until([&] { return got_.size() == 2; });
    EXPECT_EQ(got_[1].client, "second");
    EXPECT_EQ(node->denied(), 0u);
}

TEST_F(CurveTest, ANodeThatNamesNoClientLetsNobodyIn) {
    const auto node = router(server({}));
    const auto stranger = dealer(client(key("stranger")));
    stranger->send(0, {"hello"});
    run_until([&] { return node->denied() > 1; });
    EXPECT_TRUE(got_.empty());
}

TEST_F(CurveTest, AKeyOpensOnlyTheSocketsThatItsRightsAreFor) {
    const KeyPair reader = key("reader");
    const auto node = router(server({{"edge", {reader.public_key}, bus::kRead}}), bus::kPublish);
    const auto edge = dealer(client(reader));
    edge->send(0, {"hello"});
    run_until([&] { return node->denied() > 0 && edge->handshakes_failed() > 0; });
    EXPECT_TRUE(got_.empty());
}

TEST_F(CurveTest, KeysAreJudgedWhileTheLoopTakesNoMessages) {
    const KeyPair known = key("known");
    const auto node = router(server({{"known", {known.public_key}, bus::kPublish}}));
    const auto friendly = dealer(client(known));
    friendly->send(0, {"x"});
    run_until([&] { return got_.size() == 1; });
    for (int i = 0; i < 6'000; ++i) {  // More than the node takes while nobody fetches them.
        friendly->send(0, {"x"});
    }
    const auto stranger = dealer(client(key("stranger")));
    const Mono limit = BootClock::now() + Seconds(20);
    // The loop does not run. The second try comes when the node has taken what it takes.
    while (node->denied() < 2 && BootClock::now() < limit) {
        ::usleep(2'000);
    }
    EXPECT_GE(node->denied(), 2u);
    run_until([&] { return got_.size() == 6'001; });
}

TEST_F(CurveTest, NeitherPlainNorCurveTalksToTheOther) {
    const KeyPair known = key("known");
    const auto node = router(server({{"known", {known.public_key}, bus::kPublish}}));
    const auto plain = dealer({});
    plain->send(0, {"hello"});
    run_until([&] { return node->handshakes_failed() > 1 && plain->handshakes_failed() > 1; });
    EXPECT_TRUE(got_.empty()) << "and it tried again";
}

class PermissionsTest : public testing::Test {
 protected:
    static CurveSettings settings() {
        CurveSettings curve;
        curve.broker_key_file = "/b";
        curve.clients = {{"nas", {}, {"publish"}, {"nas"}},
                         {"any", {}, {"publish"}, {}},
                         {"edge", {}, {"read"}, {}},
                         {"both", {}, {"publish", "read"}, {"both"}}};
        return curve;
    }
    bool may(const std::string& client, const protocol::Any& request) {
        return permissions_.objection(client, request, Mono{}).empty();
    }
    bool may_publish(const std::string& client, const std::string& origin) {
        Message message;
        message.origin = origin;
        const bool yes = permissions_.objection(client, message, Mono{}).empty();
        protocol::Hello hello;
        hello.origin = origin;
        protocol::Range range;
        range.origin = origin;
        EXPECT_EQ(yes, may(client, hello));
        EXPECT_EQ(yes, may(client, protocol::Sync{origin, "i", 1}));
        EXPECT_EQ(yes, may(client, range));
        return yes;
    }
    bool may_read(const std::string& client) {
        const bool yes = may(client, protocol::SnapshotRequest{});
        EXPECT_EQ(yes, may(client, protocol::Ask{}));
        return yes;
    }

    broker::Permissions permissions_{settings()};
};

TEST(CurveKeys, AKeyInThePlaceOfItsFileIsToldAndNotRepeated) {
    const TempFolder folder;
    const KeyPair pair = *write_key_pair(folder.file("edge.key"));
    const auto refused = read_key_pair(pair.secret_key);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, testing::HasSubstr("put that into a file"));
    EXPECT_THAT(refused.error().message, testing::Not(testing::HasSubstr(pair.secret_key)));
}

TEST_F(PermissionsTest, AProducerPublishesAsItsOriginsAndReadsNothing) {
    EXPECT_TRUE(may_publish("nas", "nas"));
    EXPECT_FALSE(may_publish("nas", "other"));
    EXPECT_TRUE(may_publish("any", "other"));
    EXPECT_FALSE(may_read("nas"));
    EXPECT_FALSE(may_read("any"));
}

TEST_F(PermissionsTest, AnEdgeReadsAndPublishesNothing) {
    EXPECT_TRUE(may_read("edge"));
    EXPECT_FALSE(may_publish("edge", "nas"));
    EXPECT_TRUE(may_read("both"));
    EXPECT_TRUE(may_publish("both", "both"));
    EXPECT_FALSE(may_publish("both", "nas"));
}

TEST_F(PermissionsTest, WhoIsNotListedMayNothingAndWithoutKeysAllIsOpen) {
    EXPECT_FALSE(may_publish("", "nas"));
    EXPECT_FALSE(may_read(""));
    EXPECT_EQ(permissions_.refused(), 6u);
    broker::Permissions plain{CurveSettings{}};
    EXPECT_EQ(plain.objection("", protocol::Hello{}, Mono{}), "");
    EXPECT_EQ(plain.objection("", protocol::SnapshotRequest{}, Mono{}), "");
}

}  // namespace
}  // namespace sigmacast
