#include "edge/outbox.h"

#include <gtest/gtest.h>

#include "edge/encoding.h"
#include "edge/session.h"
#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using testing::raw_frame;

Bytes bytes(std::string text) {
    return std::make_shared<const std::string>(std::move(text));
}

/// Takes `n` bytes as a socket would.
std::string send(Outbox& outbox, std::size_t n) {
    iovec parts[Outbox::kPartsMax];
    std::string all;
    const std::size_t used = outbox.gather(parts);
    for (std::size_t i = 0; i < used; ++i) {
        all.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    }
    all.resize(std::min(n, all.size()));
    outbox.consume(all.size());
    return all;
}

TEST(OutboxTest, ShortWritesGoOnWhereTheyStopped) {
    Outbox outbox;
    outbox.append(bytes("abc"));
    outbox.append(bytes("defg"));
    std::string out;
    for (const std::size_t n : {1u, 3u, 1u, 10u}) {
        out += send(outbox, n);
    }
    EXPECT_EQ(out, "abcdefg");
    EXPECT_TRUE(outbox.empty());
    EXPECT_EQ(outbox.bytes(), 0u);
}

TEST(OutboxTest, OfAFrameItsTextAloneMayBeSent) {
    Outbox outbox;
    outbox.append(bytes("id: 1\ndata: "));
    outbox.append(bytes("\x88\x01whole text"), 2);  // What is before it is none of the bytes.
    outbox.append(bytes("gone"), 4);
    EXPECT_EQ(outbox.bytes(), 22u);
    std::string out = send(outbox, 14);
    EXPECT_EQ(outbox.sent(), 14u);
    out += send(outbox, 100);
    EXPECT_EQ(out, "id: 1\ndata: whole text");
    EXPECT_TRUE(outbox.empty());
    EXPECT_TRUE(outbox.append(bytes("goes on")));
}

TEST(OutboxTest, AControlFrameFallsBetweenWholeFrames) {
    Outbox outbox;
    outbox.append(bytes("data1"));
    std::string out = send(outbox, 2);
    outbox.append(bytes("PONG"));
    outbox.append(bytes("data2"));
    out += send(outbox, 100);
    EXPECT_EQ(out, "data1PONGdata2");
}

TEST(OutboxTest, OneCallTakesAtMostSixtyFourFrames) {
    Outbox outbox;
    for (int i = 0; i < 100; ++i) {
        outbox.append(bytes("x"));
    }
    iovec parts[Outbox::kPartsMax];
    EXPECT_EQ(outbox.gather(parts), 64u);
    EXPECT_EQ(outbox.room(), 0u);
}

TEST(OutboxTest, NothingFollowsACloseFrame) {
    Outbox outbox;
    EXPECT_TRUE(outbox.append(bytes("\x88\x02\x03\xe9")));
    EXPECT_FALSE(outbox.append(bytes("late")));
    EXPECT_EQ(outbox.bytes(), 4u);
}

TEST(OutboxTest, SentSaysWhenAnAppendedFrameHasLeft) {
    Outbox outbox;
    outbox.append(bytes("abc"));
    const auto until = outbox.appended();
    outbox.append(bytes("def"));
    send(outbox, 2);
    EXPECT_LT(outbox.sent(), until);
    send(outbox, 1);
    EXPECT_GE(outbox.sent(), until);
}

TEST(OutboxTest, RoomEndsWithTheBytes) {
    Outbox outbox;
    outbox.append(bytes(std::string(Outbox::kBytesMax, 'x')));
    EXPECT_EQ(outbox.room(), 0u);
}

TEST(OutboxTest, WhatASessionGivesIsBoundedInBytesAndTheRestIsStillConflated) {
    constexpr std::size_t kFrame = 60'000;
    constexpr std::uint64_t kSlots = 50;
    const Now now{};
    const Stream stream{"nas", "storage.update"};
    SendCounters counters;
    Session session("id", Dialect::kLegacy, {}, counters, now);
    std::uint64_t seq = 0;
    const auto push_round = [&] {
        for (std::uint64_t slot = 1; slot <= kSlots; ++slot) {
            ASSERT_TRUE(
                session.send_data({raw_frame(std::string(kFrame, 'x')), &stream, ++seq, slot}));
        }
    };
    push_round();
    Outbox outbox;
    for (int i = 0; i < 3 && outbox.room() > 0; ++i) {
        for (FramePtr& frame : session.take(outbox.room(), now, outbox.bytes_room())) {
            outbox.append(Encoder::text_of(std::move(frame)));
        }
    }
    EXPECT_LT(outbox.bytes(), Outbox::kBytesMax + kFrame);
    push_round();
    EXPECT_GE(counters.conflated, kSlots - outbox.frames());
}

TEST(OutboxTest, AFrameOverTheBoundGoesAlone) {
    const Now now{};
    SendCounters counters;
    Session session("id", Dialect::kLegacy, {}, counters, now);
    session.send_control(raw_frame(std::string(2 * Outbox::kBytesMax, 'x')));
    session.send_control(raw_frame("next"));
    EXPECT_EQ(session.take(64, now, Outbox::kBytesMax).size(), 1u);
    EXPECT_EQ(session.take(64, now, Outbox::kBytesMax).size(), 1u);
    EXPECT_TRUE(session.idle());
}

}  // namespace
}  // namespace sigmacast::edge
