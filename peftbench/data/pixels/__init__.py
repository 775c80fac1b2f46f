"""From files to arrays: decoding, the deterministic transform, the cache on disk, streaming."""
