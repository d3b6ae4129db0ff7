def draw_all(work):
    pass
