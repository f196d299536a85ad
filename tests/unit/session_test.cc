#include "edge/session.h"

#include <gtest/gtest.h>

#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using Type = ClientMessage::Type;
using Types = std::vector<std::string>;

TEST(ClientMessages, EveryShapeOfSubscribeIsUnderstood) {
    for (const char* text : {
             R"({"type":"subscribe","data":{"types":["a"]}})",
             R"({"type":"subscribe","types":["a"]})",
             R"({"type":"subscribe","data":{"events":["a"]}})",
             R"({"type":"subscribe","subscriptions":["a"]})",
         }) {
        const ClientMessage message = parse_client_message(text);
        EXPECT_EQ(message.type, Type::kSubscribe) << text;
        EXPECT_EQ(message.types, Types{"a"}) << text;
    }
}

TEST(ClientMessages, UnsubscribeTakesTheSameShapes) {
    const auto message =
        parse_client_message(R"({"type":"unsubscribe","data":{"types":["a","b"]}})");
    EXPECT_EQ(message.type, Type::kUnsubscribe);
    EXPECT_EQ(message.types, (Types{"a", "b"}));
}

TEST(ClientMessages, MalformedOnesSayWhatIsWrongAndKeepTheirId) {
    for (const char* text :
         {"{invalid json", "[1,2,3]", R"({"type":5})", R"({"type":"no.such.type"})",
          R"({"type":"subscribe","channel":"events"})",
          R"({"type":"subscribe","data":{"types":"system.status"}})",
          R"({"type":"subscribe","types":[7]})", "", "\xff\xfe"}) {
        const ClientMessage message = parse_client_message(text);
        EXPECT_EQ(message.type, Type::kBad) << text;
        EXPECT_FALSE(message.problem.empty()) << text;
    }
    EXPECT_EQ(parse_client_message(R"({"type":"x","id":7})").id, "7");
    EXPECT_EQ(parse_client_message(R"({"type":"x","id":"q"})").id, "\"q\"");
    EXPECT_EQ(parse_client_message(R"({"type":"x","id":{"a":1}})").id, "");
}

TEST(ClientMessages, APingWithABadTimestampIsAPing) {
    EXPECT_EQ(parse_client_message(R"({"type":"ping","timestamp":"not-a-time"})").type,
              Type::kPing);
}

TEST(ClientMessages, ATokenIsTakenFromAuthAndIsNotRepeatedInProblems) {
    const auto message = parse_client_message(R"({"type":"auth","id":1,"data":{"token":"a.b.c"}})");
    EXPECT_EQ(message.type, Type::kAuth);
    EXPECT_EQ(message.token, "a.b.c");
    for (const char* text :
         {R"({"type":"auth","token":"a.b.c"})", R"({"type":"auth","data":"a.b.c"})",
          R"({"type":"auth","data":{"token":["a.b.c"]}})", R"({"type":"auth","data":{"a.b.c":1}})",
          R"({"type":"auth","data":{"token":"a.b.c")"}) {
        const auto bad = parse_client_message(text);
        EXPECT_EQ(bad.type, Type::kBad) << text;
        EXPECT_EQ(bad.problem.find("a.b.c"), std::string::npos) << bad.problem;
    }
}

TEST(ClientMessages, AWishToResumeIsSeen) {
    EXPECT_TRUE(parse_client_message(
                    R"({"type":"subscribe","data":{"types":["a"],"resume":{"epoch":"e","pos":1}}})")
                    .resume);
}

class SessionTest : public ::testing::Test {
 protected:
    static FramePtr big(char letter, std::size_t size = 100) {
        return raw_frame(std::string(size, letter));
    }
    bool push(std::uint64_t seq, std::uint64_t slot, char letter, bool last = false) {
        return session_.send_data({big(letter), &stream_, seq, slot, last});
    }
    /// What would be sent: a letter a frame, or the range of a `skipped`.
    std::string sent(std::size_t most = 1'000) {
        std::string out;
        for (const FramePtr& each : session_.take(most, clock_.now())) {
            if (each->text()[0] == '\x81') {
                const auto data = json_of(each).at("data").as_object();
                out += "[" + std::to_string(data.at("from").to_number<int>()) + "-" +
                       std::to_string(data.at("to").to_number<int>()) + "]";
            } else {
                out += each->text()[0];
            }
        }
        return out;
    }

    Clock clock_;
    Stream stream_{"nas", "system.status"};
    SendCounters counters_;
    // 1,000 bytes: ten frames; conflation begins at five.
    Session session_{"id", Dialect::kV1, {.bytes_max = 1'000}, counters_, clock_.now()};
};

TEST_F(SessionTest, AClientThatKeepsUpGetsEveryFrame) {
    for (std::uint64_t seq = 1; seq <= 5; ++seq) {
        EXPECT_TRUE(push(seq, 1, static_cast<char>('a' + seq - 1)));
    }
    EXPECT_EQ(sent(), "abcde");
}

TEST_F(SessionTest, ControlFramesGoFirst) {
    push(1, 1, 'a');
    session_.send_control(big('C'));
    EXPECT_EQ(sent(), "Ca");
}

TEST_F(SessionTest, BehindItsStateIsConflatedAndToldAndTheNewestMovesToTheTail) {
    for (std::uint64_t seq = 1; seq <= 5; ++seq) {
        push(seq, seq, static_cast<char>('a' + seq - 1));
    }
    push(6, 2, 'B');
    push(7, 3, 'C');
    push(8, 2, 'D');
    EXPECT_EQ(sent(), "a[2-3]de[6-6]CD");
    EXPECT_EQ(counters_.conflated, 3u);
}

TEST_F(SessionTest, PositionsNeverGoBackAndEveryHoleIsCovered) {
    Random random(11);
    std::uint64_t last = 0;
    const auto check = [&](std::size_t most) {
        for (const FramePtr& each : session_.take(most, clock_.now())) {
            if (each->text()[0] == '\x81') {
                const auto data = json_of(each).at("data").as_object();
                ASSERT_EQ(data.at("from").to_number<std::uint64_t>(), last + 1);
                last = data.at("to").to_number<std::uint64_t>();
            } else {
                const auto seq = std::stoull(each->text().substr(0, 8));
                ASSERT_EQ(seq, last + 1);
                last = seq;
            }
        }
    };
    for (std::uint64_t seq = 1; seq <= 5'000; ++seq) {
        std::string text = std::to_string(10'000'000 + seq).substr(0, 8);
        text[0] = '0';
        const FramePtr item = raw_frame(text + std::string(60, 'x'));
        ASSERT_TRUE(session_.send_data({item, &stream_, seq, random.between(1, 6), false}));
        if (random.between(0, 9) == 0) {
            check(random.between(1, 4));
        }
    }
    check(100'000);
    EXPECT_EQ(last, 5'000u);
}

TEST_F(SessionTest, ATickGoesWithTheValueThatItSpeaksFor) {
    const auto value = [&](std::uint64_t seq, char letter) {
        return session_.send_data({big(letter), &stream_, seq, 1, false, 9});
    };
    const auto tick = [&](char letter) { return session_.send_data({big(letter), nullptr, 0, 9}); };
    value(1, 'a');
    tick('1');
    tick('2');
    value(2, 'b');
    tick('3');
    value(3, 'c');  // From here on it is conflated; 'b' does not come, nor what was said of it.
    EXPECT_EQ(sent(), "a[2-2]c");
}

TEST_F(SessionTest, EventsAreNeverConflated) {
    for (std::uint64_t seq = 1; seq <= 9; ++seq) {
        EXPECT_TRUE(push(seq, 0, static_cast<char>('a' + seq - 1)));
    }
    EXPECT_EQ(sent(), "abcdefghi");
}

TEST_F(SessionTest, TheLastValueOfAKeyIsNotReplacedByItsNextLife) {
    for (std::uint64_t seq = 1; seq <= 5; ++seq) {
        push(seq, 0, 'x');
    }
    push(6, 1, 'F', true);
    push(7, 1, 'n');
    EXPECT_EQ(sent(), "xxxxxFn");
}

TEST_F(SessionTest, OverItsBoundNothingIsKept) {
    for (std::uint64_t seq = 1; seq <= 10; ++seq) {
        EXPECT_TRUE(push(seq, 0, 'x'));
    }
    EXPECT_FALSE(push(11, 0, 'x'));
    EXPECT_EQ(session_.queued_bytes(), 0u);
}

TEST_F(SessionTest, AFrameLargerThanTheBoundIsLeftOutAndClosesNobody) {
    const auto oversized = [&](std::uint64_t seq) {
        return session_.send_data({big('L', 1'001), &stream_, seq, 1});
    };
    EXPECT_TRUE(oversized(1));
    EXPECT_TRUE(push(2, 1, 'a'));
    EXPECT_TRUE(oversized(3)) << "nor with something waiting";
    session_.allow(5'000);
    EXPECT_TRUE(oversized(4)) << "nor as an answer";
    EXPECT_TRUE(push(5, 1, 'b'));
    EXPECT_EQ(sent(), "[1-1]a[3-4]b");
}

TEST_F(SessionTest, AnAnswerThatWasAskedForMayBeLargerThanTheBound) {
    session_.allow(2'000);
    for (std::uint64_t seq = 1; seq <= 20; ++seq) {
        EXPECT_TRUE(push(seq, 0, 'x'));
    }
    EXPECT_FALSE(session_.wants_reading());
    EXPECT_EQ(sent().size(), 20u);
    EXPECT_TRUE(session_.wants_reading());
}

TEST_F(SessionTest, AClientThatAsksWithoutReadingIsNotReadFrom) {
    EXPECT_TRUE(session_.wants_reading());
    for (int i = 0; i < 1'000; ++i) {
        session_.send_control(big('p'));
    }
    EXPECT_FALSE(session_.wants_reading());
}

TEST_F(SessionTest, AfterCloseNothingIsQueued) {
    session_.send_control(big('g'));
    session_.close({kCloseGoingAway, "shutting_down"});
    session_.send_control(big('x'));
    EXPECT_TRUE(push(1, 0, 'x'));
    EXPECT_EQ(sent(), "g");
}

}  // namespace
}  // namespace sigmacast::edge
