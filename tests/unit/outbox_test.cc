#include "edge/outbox.h"

#include <gtest/gtest.h>

namespace sigmacast::edge {
namespace {

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

}  // namespace
}  // namespace sigmacast::edge
