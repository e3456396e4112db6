"""The annotation stages: pure Python over plain rows, run by the jobs on Ray and by the scorer in process.

Order: decode, prosody, transcribe (the audio pass), then emphasis, semantics, embed_transcript, embed_semantics (the
text pass).
"""
