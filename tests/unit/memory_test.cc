// What the parts of a client hold when nothing is in them: an edge has 18,000 of each.
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdlib>
#include <new>
#include <string>

#include "edge/fifo.h"
#include "edge/session.h"
#include "edge/websocket.h"
#include "edge_fixture.h"

namespace {

std::size_t held = 0;  // Bytes that new has given and nobody has given back.

}  // namespace

void* operator new(std::size_t size) {
    void* const place = std::malloc(size);
    if (place == nullptr) {
        throw std::bad_alloc();
    }
    held += ::malloc_usable_size(place);
    return place;
}

void operator delete(void* place) noexcept {
    held -= ::malloc_usable_size(place);
    std::free(place);
}

void operator delete(void* place, std::size_t /*size*/) noexcept {
    operator delete(place);
}

namespace sigmacast::edge {
namespace {

constexpr std::size_t kLittle = 16 * 64;  // What a queue may keep for its next items.

TEST(Memory, AQueueThatWasLongHoldsAlmostNoneWhenItIsEmpty) {
    Fifo<std::uint64_t> queue;
    const std::size_t before = held;
    const auto fill = [&] {
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            queue.push_back(i);
        }
        EXPECT_GE(held, before + 8'000);
    };
    fill();
    while (!queue.empty()) {
        queue.pop_front();
    }
    EXPECT_LE(held, before + kLittle) << "one after the other";
    fill();
    queue.clear();
    EXPECT_LE(held, before + kLittle) << "all at once";
}

TEST(Memory, AReaderBetweenTwoMessagesHoldsNone) {
    // Text in two fragments, and a ping that comes in two pieces; the masks are zero.
    const std::string text = std::string("\x01\xfe\x07\xd0\0\0\0\0", 8) + std::string(2'000, 'x') +
                             std::string("\x80\x80\0\0\0\0", 6);
    const std::string ping = std::string("\x89\xe4\0\0\0\0", 6) + std::string(100, 'p');
    WebSocketReader reader(65'536);
    for (std::string bytes : {text, ping}) {
        const std::size_t before = held;
        std::span<char> first = std::span(bytes).first(50);
        std::span<char> rest = std::span(bytes).subspan(50);
        std::size_t told = 0;
        for (std::span<char>* const piece : {&first, &rest}) {
            while (true) {
                const auto item = reader.next(*piece);
                if (item.kind == WebSocketReader::Kind::kMore) {
                    break;
                }
                told += item.payload.size();
            }
        }
        EXPECT_EQ(told, bytes == text ? 2'000U : 100U);
        EXPECT_EQ(held, before);
    }
}

TEST(Memory, ASessionThatWasBehindHoldsAlmostNoneOnceItHasTakenAll) {
    const Now now = testing::Clock().now();
    const Stream stream;
    SendCounters counters;
    Session session("c", Dialect::kLegacy, {}, counters, now);
    const FramePtr frame = testing::raw_frame(std::string(1'000, 'x'));
    const std::size_t before = held;
    for (std::uint64_t i = 1; i <= 1'000; ++i) {
        ASSERT_TRUE(session.send_data({.frame = frame, .stream = &stream, .seq = i, .slot = i}));
    }
    EXPECT_GE(held, before + 50'000);
    while (!session.take(64, now).empty()) {
    }
    EXPECT_TRUE(session.idle());
    EXPECT_LE(held, before + 2 * kLittle);
}

}  // namespace
}  // namespace sigmacast::edge
