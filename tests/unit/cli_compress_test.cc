#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <string>

#include "ops/cli/compress_view.h"

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

JobView running(double progress) {
    return {.status = "running",
            .error = {},
            .output_path = "/m/x.zst",
            .progress = progress,
            .bytes_processed = 12.0 * 1024 * 1024,
            .bytes_total = 27.0 * 1024 * 1024,
            .ratio = 2.714,
            .elapsed_seconds = 4.0,
            .eta_seconds = 11.2};
}

TEST(CompressView, ARunningJobIsABarWithBytesRatioAndWhatIsLeft) {
    EXPECT_EQ(progress_bar(running(45)),
              "[##########..............] 45.0 %  12.0 MiB of 27.0 MiB  2.71:1  0:12 left");
    EXPECT_EQ(progress_bar(running(0)).substr(0, 28), "[........................] 0");
    EXPECT_EQ(progress_bar(running(100)).substr(0, 28), "[########################] 1");
}

TEST(CompressView, AnEngineThatSaysLessIsShownWithLess) {
    JobView job = job_view({{"status", "running"}, {"progress", 12.07}, {"error", nullptr}});
    EXPECT_EQ(progress_text(job), "12.1 %");
    job.status = "pending";
    EXPECT_EQ(progress_text(job), "waiting");
    job.status = "completed";
    EXPECT_EQ(end_text(job), "completed");
}

TEST(CompressView, AnEndIsASentence) {
    JobView job = running(100);
    job.status = "completed";
    EXPECT_EQ(end_text(job), "completed: /m/x.zst  27.0 MiB to 9.9 MiB (2.71:1) in 4.0 s");
    job.status = "failed";
    job.error = "no room";
    EXPECT_EQ(end_text(job), "failed: no room");
    EXPECT_TRUE(job.ended());
    EXPECT_FALSE(job.completed());
}

TEST(CompressView, TheEnginesTextsCannotDriveTheTerminal) {
    const JobView job =
        job_view({{"status", "failed"}, {"error", "no \x1b[2J room"}, {"progress", 1e300}});
    EXPECT_EQ(end_text(job).find('\x1b'), std::string::npos);
    EXPECT_EQ(job.progress, 100.0);
}

TEST(CompressView, WithoutATerminalEachTenthIsALine) {
    Milestones milestones;
    std::string shown;
    for (const double progress : {0.0, 1.0, 9.9, 10.0, 11.0, 35.0, 39.0, 100.0}) {
        shown += milestones.is_next(running(progress)) ? "y" : "n";
    }
    EXPECT_EQ(shown, "ynnynyny");
}

TEST(CompressView, AnswersOfTheEngineAreToldApart) {
    EXPECT_EQ(rpc_result(R"({"result":{"job_id":"a"},"error":null,"id":1})")->at("job_id"), "a");
    const auto gone = rpc_result(
        R"({"result":null,"error":{"code":-32603,"message":"Internal error","data":"Job not found: a"}})");
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, Errc::kNotFound);
    const auto refused =
        rpc_result(R"({"result":null,"error":{"code":-32602,"message":"Invalid params: x"}})");
    EXPECT_EQ(refused.error().code, Errc::kInvalid);
    EXPECT_EQ(refused.error().message, "Invalid params: x");
    for (const char* body : {"", "<html>", "[]", "{}", R"({"result":7})", R"({"error":{}})"}) {
        EXPECT_FALSE(rpc_result(body)) << body;
    }
}

TEST(CompressView, AnyNameIsACallThatIsJson) {
    const auto call = rpc_call("m", {{"source_path", "/m/\"\n\xff"}});
    EXPECT_EQ(json::parse(call).at("method"), "m");
}

}  // namespace
}  // namespace sigmacast::cli
