#include "edge/event_id.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "common/random.h"

namespace sigmacast::edge {
namespace {

const std::string kEpoch = "0123456789abcdef0123456789abcdef";
const std::string kOther = "fedcba9876543210fedcba9876543210";

Place at(const std::string& topic, std::uint64_t pos, bool replay = false,
         const std::string& epoch = kEpoch, const std::string& origin = "nas") {
    return {.type = topic,
            .topic = topic,
            .origin = origin,
            .epoch = epoch,
            .pos = pos,
            .replay = replay,
            .state = replay};
}

/// One that has a bookmark.
EventId reached(std::uint64_t pos) {
    EventId id;
    id.reach(kEpoch, pos);
    return id;
}

TEST(EventId, ATokenSaysEpochBookmarkAndWhatWasSeenBeyondIt) {
    EventId id = reached(100);
    EXPECT_TRUE(id.pass(at("task.queued", 103)));
    EXPECT_TRUE(id.pass(at("rpc_error", 105)));
    EXPECT_TRUE(id.pass(at("task.queued", 108)));
    EXPECT_TRUE(id.pass(at("task.queued", 109, false, kEpoch, "an \"odd\" one")));
    const auto back = EventId::parse(id.token());
    ASSERT_TRUE(back);
    EXPECT_EQ(back->resume(), R"({"epoch":")" + kEpoch +
                                  R"(","pos":100,"topics":{"rpc_error":{"nas":105},)"
                                  R"("task.queued":{"an \"odd\" one":109,"nas":108}}})");
    EXPECT_EQ(back->token(), id.token());
}

TEST(EventId, ATokenIsShortAndSafeInAUrl) {
    EventId id = reached(1'000'000);
    EXPECT_LE(id.token().size(), 40U);
    for (int i = 0; i < 30; ++i) {
        id.pass(at("topic.number" + std::to_string(i), 1'000'001 + static_cast<unsigned>(i)));
    }
    const std::string token = id.token();
    EXPECT_LE(token.size(), 900U);
    EXPECT_TRUE(std::all_of(token.begin(), token.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '-' || c == '_';
    }));
}

TEST(EventId, MarksGoAsTheBookmarkReachesThem) {
    EventId id = reached(100);
    id.pass(at("a", 103));
    id.pass(at("b", 107));
    id.reach(kEpoch, 105);
    EXPECT_EQ(id.resume(), R"({"epoch":")" + kEpoch + R"(","pos":105,"topics":{"b":{"nas":107}}})");
    id.reach(kEpoch, 107);
    EXPECT_EQ(id.resume(), R"({"epoch":")" + kEpoch + R"(","pos":107,"topics":{}})");
}

TEST(EventId, ABookmarkNeverGoesBack) {
    EventId id = reached(100);
    id.reach(kEpoch, 90);  // An edge that is behind what another one has told.
    EXPECT_EQ(id.token(), reached(100).token());
}

TEST(EventId, ThereIsNoTokenBeforeTheFirstSnapshotIsComplete) {
    EventId id;
    EXPECT_EQ(id.token(), "");
    EXPECT_FALSE(id.pass(at("a", 40, true)));
    EXPECT_FALSE(id.pass(at("a", 60, true)));
    EXPECT_EQ(id.token(), "");
    id.reach(kEpoch, 50);
    EXPECT_EQ(id.resume(), R"({"epoch":")" + kEpoch + R"(","pos":50,"topics":{}})");
}

/// It is newer than events of its topic that are still to come: a page of the log is behind it.
TEST(EventId, StateOfASnapshotIsNotMarked) {
    EventId id = *EventId::parse(reached(100).token());
    EXPECT_FALSE(id.pass(at("a", 150, true)));
    EXPECT_TRUE(id.pass(at("b", 120)));
    EXPECT_EQ(id.resume(), R"({"epoch":")" + kEpoch + R"(","pos":100,"topics":{"b":{"nas":120}}})");
    id.reach(kEpoch, 110);
    EXPECT_EQ(id.resume(), R"({"epoch":")" + kEpoch + R"(","pos":110,"topics":{"b":{"nas":120}}})");
}

TEST(EventId, EventsOfACatchUpAreMarkedAsTheyCome) {
    EventId id = *EventId::parse(reached(100).token());
    Place event = at("task.queued", 103, true);
    event.state = false;
    EXPECT_TRUE(id.pass(event));
    event.pos = 108;
    EXPECT_TRUE(id.pass(event));
    EXPECT_EQ(id.resume(),
              R"({"epoch":")" + kEpoch + R"(","pos":100,"topics":{"task.queued":{"nas":108}}})");
}

TEST(EventId, AnotherEpochBeginsAnew) {
    EventId id = reached(1'000);
    id.pass(at("a", 1'001));
    EXPECT_FALSE(id.pass(at("a", 7, true, kOther)));
    EXPECT_FALSE(id.pass(at("b", 9, false, kOther)));
    EXPECT_EQ(EventId::parse(id.token())->resume().find(kOther), std::string::npos);
    id.reach(kOther, 8);
    EXPECT_EQ(id.resume(), R"({"epoch":")" + kOther + R"(","pos":8,"topics":{"b":{"nas":9}}})");
}

TEST(EventId, OneBeyondTheLogIsForgotten) {
    EventId id = *EventId::parse(reached(1'000).token());
    id.pass(at("a", 1'005));
    id.forget();
    EXPECT_EQ(id.token(), "");
    id.reach(kEpoch, 10);
    EXPECT_EQ(id.token(), reached(10).token());
}

TEST(EventId, WithoutAnEpochOrAPositionNothingIsMarked) {
    EventId id = reached(100);
    EXPECT_FALSE(id.pass(at("a", 0)));
    id.reach("", 500);
    EXPECT_EQ(id.token(), reached(100).token());
}

TEST(EventId, WhereMarksDoNotFitThereIsNoTokenUntilABookmarkHasPassedThem) {
    EventId id = reached(100);
    for (std::uint64_t i = 0; i < EventId::kMarksMax + 500; ++i) {
        id.pass(at("topic" + std::to_string(i), 101 + i));
    }
    id.reach(kEpoch, 101);
    EXPECT_EQ(id.token(), "");
    EXPECT_LT(id.resume().size(), EventId::kMarksMax * 40);
    id.reach(kEpoch, 101 + EventId::kMarksMax);
    EXPECT_EQ(id.token(), "") << "positions that were not marked may be missing";
    id.reach(kEpoch, 101 + EventId::kMarksMax + 499);
    EXPECT_EQ(id.token(), reached(101 + EventId::kMarksMax + 499).token());
}

TEST(EventId, ATokenIsNeverLongerThanItsBound) {
    EventId id = reached(100);
    std::size_t longest = 0;
    bool given_up = false;
    for (std::uint64_t i = 0; i < 200; ++i) {
        id.pass(at("a.topic.with.a.name." + std::to_string(i), 101 + i));
        longest = std::max(longest, id.token().size());
        given_up = given_up || id.token().empty();
    }
    EXPECT_GT(longest, 1'900U);
    EXPECT_LE(longest, EventId::kTokenBytesMax);
    EXPECT_TRUE(given_up);
}

TEST(EventId, WhatIsNoTokenIsRefused) {
    EventId id = reached(100);
    id.pass(at("a", 120));
    const std::string good = id.token();
    ASSERT_TRUE(EventId::parse(good));
    for (const std::string& bad :
         {std::string(), std::string("garbage"), std::string("1"), std::string("130"),
          std::string(5'000, 'A'), good + "A", good + "AAAA", good.substr(1), " " + good,
          std::string("\xff\x00", 2)}) {
        EXPECT_FALSE(EventId::parse(bad)) << bad;
    }
    for (std::size_t i = 0; i < good.size(); ++i) {
        EXPECT_FALSE(EventId::parse(good.substr(0, i))) << i;
        for (const char other : {'A', 'z', '0', '_', '%'}) {
            std::string altered = good;
            altered[i] = other;
            if (altered != good) {
                EXPECT_FALSE(EventId::parse(altered)) << altered;
            }
        }
    }
}

TEST(EventId, APositionThatNoLogCanHaveIsNoToken) {
    constexpr std::uint64_t kMost = INT64_MAX;  // As every log counts.
    EXPECT_TRUE(EventId::parse(reached(kMost).token()));
    for (const std::uint64_t pos : {kMost + 1, kMost + 2, UINT64_MAX - 1, UINT64_MAX}) {
        EXPECT_FALSE(EventId::parse(reached(pos).token())) << pos;
        EventId id = reached(kMost - 1);
        id.pass(at("a", pos));
        EXPECT_FALSE(EventId::parse(id.token())) << pos;
    }
}

TEST(EventId, RandomBytesAreNeverAToken) {
    Random random(7);
    static constexpr std::string_view kCharacters =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (int round = 0; round < 20'000; ++round) {
        std::string text = "AQ";  // As the version begins.
        for (auto size = random.upto(Millis{80}).count(); size > 0; --size) {
            text += kCharacters[static_cast<std::size_t>(random.upto(Millis{63}).count())];
        }
        EXPECT_FALSE(EventId::parse(text)) << text;
    }
}

TEST(Place, IsReadFromTheEnvelopeAndNotFromTheData) {
    const Place value = place_of(
        R"({"type":"room.door","timestamp":"x","data":{"pos":9,"epoch":"e","origin":"o","s":"}\",\"pos\":8"},)"
        R"("origin":"na\"s","key":"k,\"pos\":7","seq":1,"pos":36,"epoch":"d7b9","replay":true})");
    EXPECT_EQ(value.type, "room.door");
    EXPECT_EQ(value.topic, "room.door");
    EXPECT_EQ(value.origin, "na\"s");
    EXPECT_EQ(value.pos, 36U);
    EXPECT_EQ(value.epoch, "d7b9");
    EXPECT_TRUE(value.replay);
    EXPECT_EQ(place_of(R"({"type":"t","data":{"pos":9},"origin":"nas"})").pos, 0U);
}

TEST(Place, OfATransitionIsInTheStreamOfItsTopic) {
    const Place place = place_of(
        R"({"type":"transition","data":{"topic":"system.status","poll":"p"},"origin":"nas","pos":38,"epoch":"e"})");
    EXPECT_EQ(place.type, "transition");
    EXPECT_EQ(place.topic, "system.status");
    EXPECT_EQ(place.pos, 38U);
}

TEST(Place, ABookmarkIsNone) {
    EXPECT_EQ(place_of(R"({"type":"heartbeat","data":{"server_time":1},"pos":42,"epoch":"e"})").pos,
              0U);
}

TEST(Payload, OfAFrameIsItsText) {
    for (const std::size_t size : {0U, 1U, 125U, 126U, 65'535U, 65'536U, 100'000U}) {
        const std::string text(size, 'x');
        EXPECT_EQ(payload_of(*frame(text)), text);
    }
}

}  // namespace
}  // namespace sigmacast::edge
