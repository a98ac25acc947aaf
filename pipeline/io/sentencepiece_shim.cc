// The only C++ of the project: the SentencePiece library has no C interface. Nothing is decided
// here; every call is forwarded, and whatever is thrown becomes a return value.
#include "sentencepiece_shim.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

// Not in the public header, but the only way to keep the library from writing to stderr itself;
// weak, so that a build of the library without it still links.
namespace sentencepiece
{
namespace logging
{
__attribute__((weak)) void SetMinLogLevel(int level);
}
} // namespace sentencepiece

struct spiece {
    sentencepiece::SentencePieceProcessor processor;
};

static void silence_library()
{
    constexpr int fatal_only = 3;
    if (sentencepiece::logging::SetMinLogLevel)
        sentencepiece::logging::SetMinLogLevel(fatal_only);
}

static void say(char *message, size_t size, const std::string &text)
{
    std::snprintf(message, size, "%s", text.c_str());
}

struct spiece *spiece_load(const void *bytes, size_t size, char *message, size_t message_size)
{
    try {
        silence_library();
        auto loaded = std::make_unique<spiece>();
        std::string model(static_cast<const char *>(bytes), size);
        const auto status = loaded->processor.LoadFromSerializedProto(model);
        if (status.ok())
            return loaded.release();
        say(message, message_size, status.ToString());
    } catch (const std::bad_alloc &) {
        say(message, message_size, SPIECE_OUT_OF_MEMORY);
    } catch (const std::exception &error) {
        say(message, message_size, error.what());
    } catch (...) {
        say(message, message_size, "unknown exception");
    }
    return nullptr;
}

void spiece_free(struct spiece *spiece)
{
    delete spiece;
}

int32_t spiece_count(const struct spiece *spiece)
{
    return spiece->processor.GetPieceSize();
}

enum spiece_kind spiece_kind(const struct spiece *spiece, int32_t id)
{
    const auto &processor = spiece->processor;
    if (processor.IsControl(id))
        return SPIECE_CONTROL;
    if (processor.IsUnknown(id))
        return SPIECE_UNKNOWN;
    if (processor.IsByte(id))
        return SPIECE_BYTE;
    return processor.IsUnused(id) ? SPIECE_UNUSED : SPIECE_ORDINARY;
}

const char *spiece_text(const struct spiece *spiece, int32_t id)
{
    return spiece->processor.IdToPiece(id).c_str();
}

bool spiece_encode(const struct spiece *spiece, const char *text, size_t size, int32_t **ids,
                   int64_t *count, char *message, size_t message_size)
{
    try {
        std::vector<int> found;
        const auto status = spiece->processor.Encode(std::string(text, size), &found);
        if (!status.ok()) {
            say(message, message_size, status.ToString());
            return false;
        }
        *ids = static_cast<int32_t *>(std::malloc((found.size() + 1) * sizeof **ids));
        if (!*ids)
            throw std::bad_alloc();
        for (size_t i = 0; i < found.size(); i++)
            (*ids)[i] = found[i];
        *count = static_cast<int64_t>(found.size());
        return true;
    } catch (const std::bad_alloc &) {
        say(message, message_size, SPIECE_OUT_OF_MEMORY);
    } catch (const std::exception &error) {
        say(message, message_size, error.what());
    } catch (...) {
        say(message, message_size, "unknown exception");
    }
    return false;
}
