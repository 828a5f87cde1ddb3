"""The page of ``llada-uni ui``: a client of the serving engine in the browser. Needs the extra ``llada-uni[ui]``.

Nothing of a visit is kept in the server: pictures, masks and the history live in the browser (``page.js``); Gradio
gives the form, the queue and the stream. ``app`` mounts the page, ``page`` lays it out, ``orders`` turns forms into
work for the engine, ``progress`` turns the engine's events into what is shown.
"""
