#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <string>

#include "ops/cli/feed_cursor.h"

namespace sigmacast::cli {
namespace {

class Feed : public ::testing::Test {
 protected:
    void hear(std::string_view message) {
        cursor_.on_message(boost::json::parse(message).as_object());
    }
    [[nodiscard]] std::string resume() const {
        const auto resume = cursor_.resume();
        return resume ? boost::json::serialize(*resume) : "";
    }
    FeedCursor cursor_;
    const std::string hello_ = R"({"type":"hello","data":{"epoch":"e","pos":10}})";
};

TEST_F(Feed, BeginsWithTheHelloOfTheFirstConnectionAlone) {
    EXPECT_EQ(resume(), "");
    hear(hello_);
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":10,"topics":{}})");
    hear(R"({"type":"hello","data":{"epoch":"e","pos":90}})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":10,"topics":{}})") << "what lies between is missing";
}

TEST_F(Feed, WhatWasSeenBeyondTheBookmarkIsNamedUntilTheNextOne) {
    hear(hello_);
    hear(R"({"type":"note","data":{},"origin":"nas","seq":1,"pos":12,"epoch":"e"})");
    hear(R"({"type":"transition","data":{"topic":"lamp"},"origin":"nas","pos":14,"epoch":"e"})");
    hear(R"({"type":"note","data":{},"origin":"nas","seq":2,"pos":15,"epoch":"e"})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":10,"topics":{"lamp":{"nas":14},"note":{"nas":15}}})");
    hear(R"({"type":"pong","pos":14,"epoch":"e"})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":14,"topics":{"note":{"nas":15}}})");
    hear(R"({"type":"heartbeat","data":{},"pos":20,"epoch":"e"})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":20,"topics":{}})");
    hear(R"({"type":"pong"})");
    hear(R"({"type":"heartbeat","data":{},"pos":19,"epoch":"e"})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":20,"topics":{}})");
}

TEST_F(Feed, EventsThatWereMissedCountAndTheStateOfASnapshotDoesNot) {
    hear(hello_);
    hear(R"({"type":"note","data":{},"origin":"nas","seq":1,"pos":12,"epoch":"e","replay":true})");
    hear(
        R"({"type":"lamp","data":{},"origin":"nas","pos":13,"epoch":"e","quality":"live","replay":true})");
    hear(R"({"type":"lamp","data":{},"origin":"nas","quality":"live"})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":10,"topics":{"note":{"nas":12}}})");
}

TEST_F(Feed, AnotherLogBeginsAnewWithItsFirstBookmark) {
    hear(hello_);
    hear(R"({"type":"note","data":{},"origin":"nas","seq":1,"pos":12,"epoch":"e"})");
    hear(R"({"type":"note","data":{},"origin":"nas","seq":1,"pos":13,"epoch":"f"})");
    EXPECT_EQ(resume(), R"({"epoch":"e","pos":10,"topics":{"note":{"nas":12}}})");
    hear(R"({"type":"heartbeat","data":{},"pos":3,"epoch":"f"})");
    EXPECT_EQ(resume(), R"({"epoch":"f","pos":3,"topics":{}})");
    hear(R"({"type":"subscribed","data":{"topics":{"a":{"result":"snapshot","cause":"future"}}}})");
    EXPECT_EQ(resume(), "");
    hear(R"({"type":"pong","pos":2,"epoch":"f"})");
    EXPECT_EQ(resume(), R"({"epoch":"f","pos":2,"topics":{}})");
}

TEST_F(Feed, IsBounded) {
    hear(hello_);
    for (std::size_t i = 0; i < FeedCursor::kSeenMax + 50; ++i) {
        hear(R"({"type":"t)" + std::to_string(i) +
             R"(","data":{},"origin":"nas","pos":20,"epoch":"e"})");
    }
    EXPECT_EQ(cursor_.resume()->at("topics").as_object().size(), FeedCursor::kSeenMax);
}

TEST_F(Feed, WhatIsNoMessageOfAnEdgeIsPassedOver) {
    for (const char* odd :
         {"{}", R"({"type":7})", R"({"type":"hello"})", R"({"type":"hello","data":{"pos":-1}})",
          R"({"type":"subscribed","data":{"topics":[]}})", R"({"type":"pong","pos":"x"})"}) {
        hear(odd);
        EXPECT_EQ(resume(), "") << odd;
    }
}

}  // namespace
}  // namespace sigmacast::cli
